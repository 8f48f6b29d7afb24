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

_COMMON = frozenset(  # words that do not say what a text is about
    """
    a about above after again all also although am among an and any are as at be because been before being below
    between both but by can could did do does doing down during each either else even ever every few for from further
    get gets getting give gives given go goes going had has have having he her here hers him his how however i if in
    into is it its itself just least less let like made make makes making many may me might mine more most much must
    my of off often on once one only onto or other others our ours out over own per please quite rather same shall she
    should since so some someone something still such than that the their theirs them then there these they this those
    though through to together too under until up upon us very via was we were what when where whether which while who
    whom whose why will with within would yes yet you your yours
    """.split()
)
_NEGATIVE = frozenset("no not never none nobody nothing nowhere without neither nor cannot".split())
_CARDINALS = "two three four five six seven eight nine ten eleven twelve".split()  # "one" is seldom a number
_DIGITS = {word: str(number) for number, word in enumerate(_CARDINALS, 2)}

_MARKER = re.compile(r"(?m)^\s*\d+[.)]\s")  # of a list
_NUMBER = re.compile(r"(?<![^\W\d_]-)(?<![^\W_])\d+(?:[.,]\d+)*")  # not that of a name, as in COVID-19
_THOUSANDS = re.compile(r",(?=\d{3}(?!\d))")


@dataclass(frozen=True, slots=True)
class Groundedness:
    """How far an answer rests on passages."""

    share: float  #: of its content words and numbers that are found
    numbers: tuple[str, ...]  #: that are not found
    contradicts: bool  #: whether a sentence denies what the passages say, or says what they deny

    @property
    def grounded(self) -> bool:
        """Return whether the passages say what the answer says, as far as words tell."""
        return self.share >= LEAST and not self.numbers and not self.contradicts


@dataclass(frozen=True, slots=True)
class _Sentence:
    words: frozenset[str]  #: stems of its content words
    numbers: frozenset[str]
    negative: bool


def groundedness(answer: str, passages: Sequence[str]) -> Groundedness | None:
    """Return how far an answer rests on passages; None if it says nothing by itself, such as a lone "Yes."."""
    ours = [_read(sentence) for sentence in sentences(answer)]
    theirs = [_read(sentence) for passage in passages for sentence in sentences(passage)]
    known = frozenset[str]().union(*(sentence.words | sentence.numbers for sentence in theirs))
    said = [sentence.words | sentence.numbers for sentence in ours]
    if not any(said):
        return None
    return Groundedness(
        share=sum(len(words & known) for words in said) / sum(map(len, said)),
        numbers=tuple(sorted(frozenset[str]().union(*(sentence.numbers for sentence in ours)) - known)),
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
    words = terms_of(_NUMBER.sub(" ", text))
    plain = (_THOUSANDS.sub("", number).replace(",", ".") for number in _NUMBER.findall(text))
    numbers = {re.sub(r"^(\d+\.\d*?)0+$", r"\1", number).rstrip(".") for number in plain}
    negative = {word for word in words if word in _NEGATIVE or word.endswith("n't")}
    content = {word for word in words if len(word) > 1 and word not in _COMMON | _DIGITS.keys() | negative}
    return _Sentence(
        frozenset(map(_stemmer().stem, content)),
        frozenset(numbers | {_DIGITS[w] for w in words if w in _DIGITS}),
        bool(negative),
    )


@cache
def _stemmer() -> Any:
    from nltk.stem.porter import PorterStemmer

    return PorterStemmer()
