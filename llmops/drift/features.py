"""What can be said of a text without repeating it: numbers and names by which drift is seen.

    [found] = features(["How do I return an item?"])  # → Features(characters=24, words=6, language="en", …)

Pure functions, of a millisecond a text or less; serving calls them when an answer has left, and the reference of the
training data is made by the same ones.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from llmops.data.text.language import UNKNOWN, language_of
from llmops.data.text.words import words_of
from llmops.drift.lexicon import Lexicon, Side

MOST_CHARS = 4_000  #: of a text that language, script, words and topics are told by; its length is told of all
_BEGINNING = 300  #: characters of an answer; one that declines says so there


@dataclass(frozen=True, slots=True)
class Features:
    """Of one text."""

    characters: int
    words: int
    language: str  #: ISO 639-1; `unknown`: too short to tell
    script: str  #: of most of its letters, as Unicode names it: `Latin`, `Cyrillic`, `Han`, …; `unknown`: no letters
    unknown_share: float | None  #: of its words that the training data do not have; None: not known, or no words
    topics: tuple[str, ...] | None  #: of the training data, nearest first; `(NO_TOPIC,)`: near none; None: not known
    fit: float | None  #: with the training data, see `Fit.of`; None: not known, or no words

    def fields(self, side: Side) -> dict[str, Any]:
        """As fields of an event of the dataset `llmops.text`."""
        values = {
            "characters": self.characters,
            "words": self.words,
            "language": self.language,
            "script": self.script,
            "unknown_share": self.unknown_share,
            "topics": None if self.topics is None else list(self.topics),
            "fit": self.fit,
        }
        return {f"llmops.{side}.{name}": value for name, value in values.items() if value is not None}


def features(texts: Sequence[str], lexicon: Lexicon | None = None, side: Side = "prompt") -> list[Features]:
    """The features of some texts, in their order.

    Args:
        texts: any strings.
        lexicon: words and topics of the training data; None: there is none.
        side: what the texts are.
    """
    return [_features(text, lexicon, side) for text in texts]


def is_refusal(answer: str) -> bool:
    """Whether an answer declines to answer, by how it begins; in English, German, French or Spanish."""
    return bool(_REFUSAL.search(answer[:_BEGINNING].replace("\u2019", "'")))


def script_of(text: str) -> str:
    """The script of most letters of `text`, as Unicode names it; `UNKNOWN` if it has none."""
    letters = Counter(filter(str.isalpha, text))
    scripts: Counter[str] = Counter()
    for letter, count in letters.items():
        scripts[_script(letter)] += count
    return min(scripts, key=lambda name: (-scripts[name], name)) if scripts else UNKNOWN


def _features(text: str, lexicon: Lexicon | None, side: Side) -> Features:
    part = text[:MOST_CHARS]
    words = words_of(text)
    told = words_of(part) if len(part) < len(text) else words
    return Features(
        characters=len(text),
        words=len(words),
        language=language_of(part),
        script=script_of(part),
        unknown_share=lexicon.unknown_share(told) if lexicon else None,
        topics=lexicon.nearest(told, side) if lexicon else None,
        fit=lexicon.fit(told, side) if lexicon else None,
    )


@lru_cache(maxsize=20_000)
def _script(letter: str) -> str:
    """The first word of a letter's name in Unicode, which is its script's."""
    name = unicodedata.name(letter, UNKNOWN).partition(" ")[0]
    return _NAMES.get(name, name.capitalize()) if name != UNKNOWN else UNKNOWN


_NAMES = {"CJK": "Han", "FULLWIDTH": "Latin", "HALFWIDTH": "Katakana"}

_REFUSAL = re.compile(
    r"(?i)\bI(?:'m| am) (?:sorry|afraid|unable|not able|not sure)\b|\bI (?:can't|cannot|can not|won't|must decline)\b"
    r"|\bI (?:don't|do not) (?:know|have (?:any |that |this |the |enough )?(?:information|access|details))"
    r"|\b(?:as|I am|I'm) an AI\b|\bunable to (?:help|assist|answer|provide)"
    r"|\bEs tut mir leid|\b(?:weiß|kann) ich (?:leider )?nicht|\bIch (?:weiß|kann) (?:es |das )?(?:leider )?nicht"
    r"|\bJe (?:suis désolé|ne (?:peux|sais) pas)|\b(?:Lo siento|No (?:puedo|lo sé))\b"
)
