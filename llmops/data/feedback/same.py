"""Comparison of feedback: do two people say the same? Negations, numbers and names must match exactly."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from unicodedata import category

from llmops.data.text import words
from llmops.data.text.comparable import comparable

_NEGATION = frozenset(
    ("no", "not", "never", "none", "nothing", "cannot", "without", "nicht", "kein", "keine", "nie", "niemals", "ohne",
     "non", "ne", "pas", "jamais", "sans", "aucun", "nunca", "nada", "sin", "mai", "senza", "não", "nem", "sem", "niet")
)  # fmt: skip
_CONTRACTED = re.compile(r"\b\w+n't\b")
_NAME = re.compile(r"(?<=[^.!?:\s]\s)[^\W\d_a-z]\w+")  #: a capitalised word within a sentence


@dataclass(frozen=True, slots=True)
class Words:
    """A text in compared form."""

    plain: str
    bag: Counter[str]
    marks: frozenset[str]  #: numbers and names, which the other text must have, too
    negations: int


@lru_cache(maxsize=50_000)
def words_of(text: str) -> Words:
    """Return a text in compared form."""
    plain = comparable(text)
    found = words.words_of(plain)
    names = {word for name in _NAME.findall(text) for word in words.words_of(comparable(name))}
    marks = {word for word in found if any(letter.isdigit() for letter in word)} | names
    negations = sum(word in _NEGATION for word in found) + len(_CONTRACTED.findall(plain))
    return Words(plain, Counter(found), frozenset(marks), negations)


def signs_of(text: str) -> frozenset[str]:
    """Return the distinct words of a text, and its signs of currency and mathematics, and %."""
    words = words_of(text)
    return frozenset(words.bag) | {sign for sign in words.plain if sign == "%" or category(sign).startswith("S")}


def same_answer(one: str, other: str, least: float) -> bool:
    """Return True if two texts say the same.

    They do if the F1 of their words is at least `least`, as in SQuAD (Rajpurkar et al. 2016), and numbers, names and
    negations match.
    """
    a, b = words_of(one), words_of(other)
    return a.plain == b.plain or (_not_turned(a, b) and f1(a, b) >= least)


def same_question(one: str, other: str, least: float) -> bool:
    """Return True if two questions are the same: equal words, or one has a few more (Jaccard similarity `least`).

    If each has words that the other lacks, they may ask about different things.
    """
    a, b = words_of(one), words_of(other)
    if a.plain == b.plain:
        return True
    mine, theirs = a.bag.keys(), b.bag.keys()
    within = mine <= theirs or theirs <= mine
    return within and a.negations == b.negations and _numbers(a) == _numbers(b) and jaccard(a, b) >= least


def f1(a: Words, b: Words) -> float:
    """Return the F1 of the words that two texts share."""
    shared = (a.bag & b.bag).total()
    return 2 * shared / (a.bag.total() + b.bag.total()) if shared else 0.0


def jaccard(a: Words, b: Words) -> float:
    """Return the share of the words of either text that both have."""
    either = len(a.bag.keys() | b.bag.keys())
    return len(a.bag.keys() & b.bag.keys()) / either if either else 0.0


def _not_turned(a: Words, b: Words) -> bool:
    return a.negations == b.negations and a.marks <= b.bag.keys() and b.marks <= a.bag.keys()


def _numbers(a: Words) -> frozenset[str]:
    return frozenset(word for word in a.marks if any(letter.isdigit() for letter in word))
