"""Whether two people say the same: by their words, and strictly by what turns a sentence round."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import ceil
from unicodedata import category

from llmops.data.text import words
from llmops.data.text.comparable import comparable

_NEGATION = frozenset(
    ("no", "not", "never", "none", "nothing", "cannot", "without", "nicht", "kein", "keine", "nie", "niemals", "ohne",
     "non", "ne", "pas", "jamais", "sans", "aucun", "nunca", "nada", "sin", "mai", "senza", "não", "nem", "sem", "niet")
)  # fmt: skip
_CONTRACTED = re.compile(r"\b\w+n't\b")
_NAME = re.compile(r"(?<=[^.!?:\s]\s)[^\W\d_a-z]\w+")  #: a word that begins with a capital within a sentence


@dataclass(frozen=True, slots=True)
class Words:
    """A text as it is compared."""

    plain: str
    bag: Counter[str]
    marks: frozenset[str]  #: numbers and names: the other text must have them, too
    negations: int


@lru_cache(maxsize=50_000)
def words_of(text: str) -> Words:
    """A text as it is compared."""
    plain = comparable(text)
    found = words.words_of(plain)
    names = {word for name in _NAME.findall(text) for word in words.words_of(comparable(name))}
    marks = {word for word in found if any(letter.isdigit() for letter in word)} | names
    negations = sum(word in _NEGATION for word in found) + len(_CONTRACTED.findall(plain))
    return Words(plain, Counter(found), frozenset(marks), negations)


def signs_of(text: str) -> frozenset[str]:
    """The different words of a text, and its signs: of currencies, of mathematics, and %."""
    words = words_of(text)
    return frozenset(words.bag) | {sign for sign in words.plain if sign == "%" or category(sign).startswith("S")}


def same_answer(one: str, other: str, least: float) -> bool:
    """Whether two texts say the same.

    Args:
        one, other: the texts.
        least: F1 of their words from which they do, as SQuAD's (Rajpurkar et al. 2016); their numbers, names and
            negations must be the same whatever it is.
    """
    a, b = words_of(one), words_of(other)
    return a.plain == b.plain or (_not_turned(a, b) and f1(a, b) >= least)


def alike(texts: Sequence[str], least: float) -> list[int]:
    """Of each text the index of the first one that says the same, among those that say the same as none before them.

    Not all are compared with all: two texts that share enough words share one of the rarest of each (Bayardo, Ma &
    Srikant 2007, Scaling up all pairs similarity search), and their numbers and how often they negate are the same.

    Args:
        texts: the texts.
        least: as in `same_answer`.
    """
    counted = [
        [(word, n) for word, count in words_of(text).bag.items() for n in range(count)] for text in texts
    ]  # one of two equal words is another than the other
    often = Counter(word for some in counted for word in some)
    heads: list[int] = []
    plain, holding = dict[str, int](), defaultdict[Hashable, list[int]](list)
    for at, (text, some) in enumerate(zip(texts, counted, strict=True)):
        shared = ceil(least / (2 - least) * len(some) - 1e-9)  # at least, with any text that says the same
        words = words_of(text)
        rarest = sorted(some, key=lambda word: (often[word], word))[: len(some) - shared + 1]
        must = _marked(words), words.negations
        keys = [(word, must) for word in rarest]
        near = {head for key in keys for head in holding[key]} | {plain.get(words.plain, at)} - {at}
        head = next((head for head in sorted(near) if same_answer(texts[head], text, least)), at)
        heads.append(head)
        if head == at:
            plain[words.plain] = at
            for key in keys:
                holding[key].append(at)
    return heads


def same_question(one: str, other: str, least: float) -> bool:
    """Whether two questions are one: the same words, or one has some more, and the Jaccard similarity is `least`.

    Where each has words that the other has not, they may ask about different things.
    """
    a, b = words_of(one), words_of(other)
    if a.plain == b.plain:
        return True
    mine, theirs = a.bag.keys(), b.bag.keys()
    within = mine <= theirs or theirs <= mine
    return within and a.negations == b.negations and _marked(a) == _marked(b) and jaccard(a, b) >= least


def f1(a: Words, b: Words) -> float:
    """F1 of the words that two texts share."""
    shared = (a.bag & b.bag).total()
    return 2 * shared / (a.bag.total() + b.bag.total()) if shared else 0.0


def jaccard(a: Words, b: Words) -> float:
    """Share of the words of either text that both have."""
    either = len(a.bag.keys() | b.bag.keys())
    return len(a.bag.keys() & b.bag.keys()) / either if either else 0.0


def _not_turned(a: Words, b: Words) -> bool:
    return a.negations == b.negations and a.marks <= b.bag.keys() and b.marks <= a.bag.keys()


def _marked(a: Words) -> frozenset[str]:
    return frozenset(word for word in a.marks if any(letter.isdigit() for letter in word))
