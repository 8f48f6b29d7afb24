"""The similarity of two texts of feedback. Negations, numbers and names must match exactly."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from unicodedata import category

from llmops.data.text import words
from llmops.data.text.normalization import normalize_text

_NEGATIONS = frozenset(
    ("no", "not", "never", "none", "nothing", "cannot", "without", "nicht", "kein", "keine", "nie", "niemals", "ohne",
     "non", "ne", "pas", "jamais", "sans", "aucun", "nunca", "nada", "sin", "mai", "senza", "não", "nem", "sem", "niet")
)  # fmt: skip
_CONTRACTED = re.compile(r"\b\w+n't\b")
_NAME = re.compile(r"(?<=[^.!?:\s]\s)[^\W\d_a-z]\w+")  #: a capitalised word within a sentence


@dataclass(frozen=True, slots=True)
class NormalizedText:
    """A text in normal form, for comparisons."""

    plain: str
    bag: Counter[str]
    facts: frozenset[str]  #: numbers and names; the other text must have them, too
    negations: int


@lru_cache(maxsize=50_000)
def normalize(text: str) -> NormalizedText:
    """Return the normal form of a text."""
    plain = normalize_text(text)
    tokens = words.split_words(plain)
    names = {word for name in _NAME.findall(text) for word in words.split_words(normalize_text(name))}
    facts = {word for word in tokens if any(letter.isdigit() for letter in word)} | names
    negations = sum(word in _NEGATIONS for word in tokens) + len(_CONTRACTED.findall(plain))
    return NormalizedText(plain, Counter(tokens), frozenset(facts), negations)


def extract_tokens(text: str) -> frozenset[str]:
    """Return the distinct words of a text, and its signs of currency and mathematics, and %."""
    compared = normalize(text)
    return frozenset(compared.bag) | {sign for sign in compared.plain if sign == "%" or category(sign).startswith("S")}


def is_same_answer(one: str, other: str, least: float) -> bool:
    """Return True if two texts say the same.

    They do if the F1 of their words is at least `least`, as in SQuAD (Rajpurkar et al. 2016), and numbers, names and
    negations match.
    """
    a, b = normalize(one), normalize(other)
    return a.plain == b.plain or (_has_same_facts(a, b) and compute_f1(a, b) >= least)


def is_same_question(one: str, other: str, least: float) -> bool:
    """Return True if two questions are the same: equal words, or one has a few more (Jaccard similarity `least`).

    If each has words that the other lacks, they may ask about different things.
    """
    a, b = normalize(one), normalize(other)
    if a.plain == b.plain:
        return True
    mine, theirs = a.bag.keys(), b.bag.keys()
    within = mine <= theirs or theirs <= mine
    return (
        within
        and a.negations == b.negations
        and _extract_numbers(a) == _extract_numbers(b)
        and compute_jaccard(a, b) >= least
    )


def compute_f1(a: NormalizedText, b: NormalizedText) -> float:
    """Return the F1 of the words that two texts share."""
    shared = (a.bag & b.bag).total()
    return 2 * shared / (a.bag.total() + b.bag.total()) if shared else 0.0


def compute_jaccard(a: NormalizedText, b: NormalizedText) -> float:
    """Return the share of the words of either text that both have."""
    either = len(a.bag.keys() | b.bag.keys())
    return len(a.bag.keys() & b.bag.keys()) / either if either else 0.0


def _has_same_facts(a: NormalizedText, b: NormalizedText) -> bool:
    return a.negations == b.negations and a.facts <= b.bag.keys() and b.facts <= a.bag.keys()


def _extract_numbers(a: NormalizedText) -> frozenset[str]:
    return frozenset(word for word in a.facts if any(letter.isdigit() for letter in word))
