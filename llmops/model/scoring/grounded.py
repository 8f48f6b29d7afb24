"""Groundedness: how far an answer rests on the passages that were found for its question.

    groundedness("Delivery takes 9 days.", ["Delivery takes 2 to 4 working days."]).grounded  # False: there is no 9

The check goes by words and numbers, and does not know what follows from what. docs/grounding.md says how often it errs.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from llmops.data.retrieval.terms import terms_of
from llmops.data.text.sentences import sentences

LEAST = 0.75  #: share of an answer's content words and numbers that the passages have
ALIKE = 0.8  #: share of a sentence's words that a sentence of a passage has, if both are about the same

_COMMON = """
a about above after again all also although am among an and any are as at be because been before being below between
both but by can could did do does doing down during each either else even ever every few for from further get gets
getting give gives given go goes going had has have having he her here hers him his how however i if in into is it its
itself just least less let like made make makes making many may me might mine more most much must my of off often on
once one only onto or other others our ours out over own per please quite rather same shall she should since so some
someone something still such than that the their theirs them then there these they this those though through to
together too under until up upon us very via was we were what when where whether which while who whom whose why will
with within would yes yet you your yours
"""  # words that do not say what a text is about
_NEGATIVE = "no not never none nobody nothing nowhere without neither nor cannot"
_EMPTY, _DENYING = frozenset(_COMMON.split()), frozenset(_NEGATIVE.split())
_CARDINALS = ["two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]

_MARKER = re.compile(r"(?m)^\s*\d+[.)]\s")  # of a list
_CARDINAL = re.compile(rf"\b(?:{'|'.join(_CARDINALS)})\b", re.IGNORECASE)  # "one" is seldom a number
_NUMBER = re.compile(r"(?<![^\W\d_]-)(?<![^\W_])\d+(?:[.,]\d+)*")  # not that of a name, as in COVID-19
_THOUSANDS = re.compile(r",(?=\d{3}(?!\d))")
_ZEROS = re.compile(r"(?<=\d)\.0+$|(?<=\.\d)0+$")
_NAME = re.compile(r"(?<=[\w,] )[A-Z]\w+")  # not the first word of a sentence, which is always a capital
_AHEAD = 40  #: characters after a number that hold the next two words


@dataclass(frozen=True, slots=True)
class Groundedness:
    """How far an answer rests on passages."""

    share: float  #: of its content words and numbers that are found
    numbers: tuple[str, ...]  #: that are not found, or not with the word that follows them: `2`, `3.1 euro`
    names: tuple[str, ...]  #: words with a capital that are not found
    contradicts: bool  #: whether a sentence denies what the passages say, or says what they deny

    @property
    def grounded(self) -> bool:
        """Return whether the passages say what the answer says, as far as words tell."""
        return self.share >= LEAST and not (self.numbers or self.names or self.contradicts)


@dataclass(frozen=True, slots=True)
class _Sentence:
    words: frozenset[str]  #: stems of its content words
    numbers: frozenset[str]
    amounts: frozenset[str]  #: numbers with the stem of the next word, if that is a content word
    near: frozenset[str]  #: numbers with the stem of the next word, and with that of the second
    negative: bool


def groundedness(answer: str, passages: Sequence[str]) -> Groundedness | None:
    """Return how far an answer rests on passages; None if it says nothing by itself, such as a lone "Yes."."""
    ours = [_read(sentence) for sentence in sentences(answer)]
    theirs = [_read(sentence) for passage in passages for sentence in sentences(passage)]
    known, near, numbers, amounts = set[str](), set[str](), set[str](), set[str]()
    for sentence in theirs:
        known |= sentence.words | sentence.numbers
        near |= sentence.near
    for sentence in ours:
        numbers |= sentence.numbers
        amounts |= sentence.amounts
    text = " ".join(passages)
    names = [name for sentence in sentences(answer) for name in _NAME.findall(sentence)]
    said = [sentence.words | sentence.numbers for sentence in ours]
    if not any(said):
        return None
    return Groundedness(
        share=sum(len(words & known) for words in said) / sum(map(len, said)),
        numbers=tuple(sorted((numbers - known) | (amounts - near))),
        names=tuple(name for name in names if name not in text and _stem(name) not in known),
        contradicts=any(_contradicts(sentence, theirs) for sentence in ours),
    )


def _contradicts(sentence: _Sentence, theirs: Sequence[_Sentence]) -> bool:
    """Compare with the sentence that has the most of its words; of equal ones, the shortest."""
    near = max(theirs, key=lambda one: (len(sentence.words & one.words), -len(one.words)), default=None)
    if near is None or len(sentence.words) < 2 or len(sentence.words & near.words) < ALIKE * len(sentence.words):
        return False
    return sentence.negative != near.negative


def _read(sentence: str) -> _Sentence:
    text = _MARKER.sub(" ", unicodedata.normalize("NFKC", sentence).replace("\u2019", "'"))
    text = _CARDINAL.sub(lambda match: str(_CARDINALS.index(match[0].lower()) + 2), text)
    words = terms_of(_NUMBER.sub(" ", text))
    numbers, amounts, near = set[str](), set[str](), set[str]()
    for match in _NUMBER.finditer(text):
        number = _ZEROS.sub("", _THOUSANDS.sub("", match[0]).replace(",", "."))
        following = terms_of(text[match.end() : match.end() + _AHEAD])[:2]
        numbers.add(number)
        near |= {f"{number} {_stem(word)}" for word in following}
        amounts |= {
            f"{number} {_stem(word)}" for word in following[:1] if _is_content(word) and not text[match.end()].isalpha()
        }
    return _Sentence(
        words=frozenset(_stem(word) for word in words if _is_content(word)),
        numbers=frozenset(numbers),
        amounts=frozenset(amounts),
        near=frozenset(near),
        negative=any(_denies(word) for word in words),
    )


def _is_content(word: str) -> bool:
    return len(word) > 1 and not word.isdigit() and word not in _EMPTY and not _denies(word)


def _denies(word: str) -> bool:
    return word in _DENYING or word.endswith("n't")


def _stem(word: str) -> str:
    return str(_stemmer().stem(word))


@cache
def _stemmer() -> Any:
    from nltk.stem.porter import PorterStemmer

    return PorterStemmer()
