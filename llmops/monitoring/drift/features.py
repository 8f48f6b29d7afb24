"""Features of a text for drift detection: numbers and names that do not repeat the text.

    [found] = extract_features(["How do I return an item?"])  # → Features(characters=24, words=6, language="en", …)

The functions are pure and take at most a millisecond per text. Serving calls them after an answer is sent; the
reference from the training data uses the same functions.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, Literal

from llmops.data.text.language import UNKNOWN, detect_language
from llmops.data.text.words import split_words
from llmops.monitoring.drift.lexicon import Lexicon

Side = Literal["prompt", "answer"]

MAX_CHARS = 4_000  #: characters that language, script, words and topics are determined from; length counts all
_REFUSAL_CHARS = 300  #: characters of an answer in which a refusal is looked for


@dataclass(frozen=True, slots=True)
class Features:
    """The features of one text."""

    characters: int
    words: int
    language: str  #: ISO 639-1; `unknown`: too short to tell
    script: str  #: of most letters, by Unicode's name: `Latin`, `Cyrillic`, `Han`, …; `unknown`: no letters
    unknown_share: float | None  #: share of words that the training data lack; None: unknown, or no words
    topics: tuple[str, ...] | None  #: nearest topics of the training data; `(NO_TOPIC,)`: none is near; None: unknown

    def to_event_fields(self, side: Side) -> dict[str, Any]:
        """Return the features as fields of an `llmops.text` event."""
        values = {**asdict(self), "topics": None if self.topics is None else list(self.topics)}
        return {f"llmops.{side}.{name}": value for name, value in values.items() if value is not None}


def extract_features(texts: Sequence[str], lexicon: Lexicon | None = None, side: Side = "prompt") -> list[Features]:
    """Return the features of some texts, in their order."""
    return [_extract_features(text, lexicon, side) for text in texts]


def is_refusal(answer: str) -> bool:
    """Return True if the beginning of an answer is a refusal, in English, German, French or Spanish."""
    return bool(_REFUSAL.search(answer[:_REFUSAL_CHARS].replace("\u2019", "'")))


def detect_script(text: str) -> str:
    """Return the script of most letters of `text`, by its Unicode name; `UNKNOWN` if it has no letters."""
    letters = Counter(filter(str.isalpha, text))
    scripts: Counter[str] = Counter()
    for letter, count in letters.items():
        scripts[_detect_letter_script(letter)] += count
    return min(scripts, key=lambda name: (-scripts[name], name)) if scripts else UNKNOWN


def _extract_features(text: str, lexicon: Lexicon | None, side: Side) -> Features:
    part = text[:MAX_CHARS]
    words = split_words(text)
    first_words = split_words(part) if len(part) < len(text) else words
    return Features(
        characters=len(text),
        words=len(words),
        language=detect_language(part),
        script=detect_script(part),
        unknown_share=lexicon.compute_unknown_share(first_words) if lexicon else None,
        topics=lexicon.find_nearest(first_words, side) if lexicon else None,
    )


@lru_cache(maxsize=20_000)
def _detect_letter_script(letter: str) -> str:
    name = unicodedata.name(letter, UNKNOWN).partition(" ")[0]
    return _SCRIPT_NAMES.get(name, name.capitalize()) if name != UNKNOWN else UNKNOWN


_SCRIPT_NAMES = {"CJK": "Han", "FULLWIDTH": "Latin", "HALFWIDTH": "Katakana"}

_REFUSAL = re.compile(
    r"(?i)\bI(?:'m| am) (?:sorry|afraid|unable|not able|not sure)\b|\bI (?:can't|cannot|can not|won't|must decline)\b"
    r"|\bI (?:don't|do not) (?:know|have (?:any |that |this |the |enough )?(?:information|access|details))"
    r"|\b(?:as|I am|I'm) an AI\b|\bunable to (?:help|assist|answer|provide)"
    r"|\bEs tut mir leid|\b(?:weiß|kann) ich (?:leider )?nicht|\bIch (?:weiß|kann) (?:es |das )?(?:leider )?nicht"
    r"|\bJe (?:suis désolé|ne (?:peux|sais) pas)|\b(?:Lo siento|No (?:puedo|lo sé))\b"
)
