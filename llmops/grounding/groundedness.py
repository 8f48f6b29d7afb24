"""Whether an answer rests on what was retrieved: its words and numbers are there, and it does not deny what is said.

    groundedness("Delivery takes 9 days.", ["Delivery takes 2 to 4 working days."]).grounded  # False: 9

A check by words alone: it does not know what follows from what. How often it errs is known, see `docs/retrieval.md`:
MiniLM's likeness of the sentences, as one more sign, found no more of what is made up and refused more of what is not.
"""

from __future__ import annotations

import re
import sqlite3
import unicodedata
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

from llmops.data.index.terms import terms_of
from llmops.data.text.sentences import sentences

LEAST = 0.75  #: share of an answer's words and numbers that are found, below which it is not grounded
ALIKE = 0.6  #: share of a sentence's words that one of the passages' has, from which on it says the same, or denies it

# What stands in any text, and says nothing of what it is about.
_WORDS = """
a about above after again all also although am among an and any are as at be because been before being below
between both but by can could did do does doing down during each either else even ever every few for from further
get gets getting give gives given go goes going had has have having he her here hers him his how however i if in
into is it its itself just least less let like made make makes making many may me might mine more most much must my
of off often on once one only onto or other others our ours out over own per please quite rather same shall she
should since so some someone something still such than that the their theirs them then there these they this those
though through to together too under until up upon us very via was we were what when where whether which while who
whom whose why will with within would yes yet you your yours
"""
_NEGATIVES = "no not never none nobody nothing nowhere without neither nor cannot"
_CARDINALS = "two three four five six seven eight nine ten eleven twelve"  # "one" is seldom a number
_COMMON, _DENIES = frozenset(_WORDS.split()), frozenset(_NEGATIVES.split())
_SAID = {word: str(number) for number, word in enumerate(_CARDINALS.split(), 2)}

_MARKER = re.compile(r"(?m)^\s*\d+[.)]\s")  # of a list
_NUMBER = re.compile(r"(?<![^\W\d_]-)(?<![^\W_])\d+(?:[.,]\d+)*")  # not that of a name, as of COVID-19
_THOUSANDS = re.compile(r",(?=\d{3}(?!\d))")
_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*")

_STEMS = """
CREATE VIRTUAL TABLE texts USING fts5(text, tokenize = "porter unicode61 remove_diacritics 2 categories 'L* N* M* Co'");
CREATE VIRTUAL TABLE terms USING fts5vocab(texts, 'instance');
"""


@dataclass(frozen=True, slots=True)
class Groundedness:
    """How far an answer rests on passages."""

    share: float  #: of its content words and numbers that are found in them
    numbers: tuple[str, ...]  #: that are not found
    denied: tuple[str, ...]  #: sentences that deny what a passage says, or say what it denies

    @property
    def grounded(self) -> bool:
        """Whether it says nothing that the passages do not say, as far as can be told."""
        return self.share >= LEAST and not self.numbers and not self.denied


def groundedness(answer: str, passages: Sequence[str]) -> Groundedness | None:
    """How far an answer rests on passages; None if it says nothing by itself, as a lone "Yes." does.

    Words are compared as the index compares them, in all their forms in English. The share says how much is there; a
    number that is not, or a sentence that denies what a passage says, is enough for an answer not to be grounded.
    """
    ours = sentences(answer)
    theirs = [sentence for passage in passages for sentence in sentences(passage)]
    content = _content([*ours, *theirs])
    said, known = content[: len(ours)], content[len(ours) :]
    words = set().union(*known)
    numbers = dict.fromkeys(number for sentence in ours for number in _numbers(sentence))
    strange = tuple(numbers.keys() - {number for sentence in theirs for number in _numbers(sentence)})
    found = [word in words for sentence in said for word in sorted(sentence)] + [n not in strange for n in numbers]
    denied = [
        ours[n]
        for n, sentence in enumerate(said)
        if (like := _most_like(sentence, known)) is not None and _denies(ours[n]) != _denies(theirs[like])
    ]
    return Groundedness(sum(found) / len(found), tuple(sorted(strange)), tuple(denied)) if found else None


def _most_like(sentence: set[str], known: Sequence[set[str]]) -> int | None:
    """Which sentence has most of these words, of equal ones the shortest, if enough; a lone word is none."""
    if len(sentence) < 2:
        return None
    best = max(range(len(known)), key=lambda n: (len(sentence & known[n]), -len(known[n])), default=None)
    return best if best is not None and len(sentence & known[best]) >= ALIKE * len(sentence) else None


def _content(texts: Sequence[str]) -> list[set[str]]:
    """The stems of each text's content words."""
    rows = []
    for number, text in enumerate(texts):
        words = [word for word in terms_of(_NUMBER.sub(" ", _MARKER.sub(" ", text))) if not _empty(word)]
        rows.append((number, " ".join(words)))
    found: list[set[str]] = [set() for _ in texts]
    with closing(sqlite3.connect(":memory:")) as database:
        database.executescript(_STEMS)
        database.executemany("INSERT INTO texts (rowid, text) VALUES (?, ?)", rows)
        for term, number in database.execute("SELECT term, doc FROM terms"):
            found[number].add(term)
    return found


def _empty(word: str) -> bool:
    word = word.replace("’", "'")
    return word in _COMMON or word in _SAID or _negative(word) or len(word) < 2 and not word.isdigit()


def _numbers(text: str) -> list[str]:
    """The numbers of a text, in digits, of whatever form: 1,000 is 1000, and 9.50 is 9.5."""
    text = _MARKER.sub(" ", unicodedata.normalize("NFKC", text))
    digits = [_THOUSANDS.sub("", number).replace(",", ".") for number in _NUMBER.findall(text)]
    plain = [d.rstrip("0").rstrip(".") if d.count(".") == 1 else d for d in digits]
    return plain + [_SAID[word] for word in _WORD.findall(text.lower()) if word in _SAID]


def _denies(sentence: str) -> bool:
    return any(_negative(word) for word in _WORD.findall(sentence.lower().replace("’", "'")))


def _negative(word: str) -> bool:
    return word in _DENIES or word.endswith("n't")
