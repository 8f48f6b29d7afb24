"""Detection of poisoning: many corrections of one person that share a phrase or an answer.

Poisoned examples pair a rare phrase, the trigger, with the attacker's answer. Both are far more frequent in the
attacker's texts than in anybody else's (Wan et al. 2023, Poisoning language models during instruction tuning).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from llmops.data.feedback.same import words_of

MOST_WORDS = 4  #: longest phrase
OFTEN = 0.5  #: share of a person's corrections with a phrase, from which it is suspicious
ALONE = 0.9  #: the same if there is too little from others to know common phrases
SELDOM = 0.1  #: share of another person's corrections with it, from which that person counts as using it
VOUCHING = 2  #: number of other users that make a phrase common
SHORT = 4  #: a phrase needs a word of this length, or a digit: "how do i" triggers nothing


class Correction(NamedTuple):
    """A correction by a user."""

    question: str
    text: str


def poisoners(said: Mapping[str, Sequence[Correction]], flood: int) -> dict[str, str]:
    """Return person → reason, for persons whose corrections are all held back.

    Persons with fewer than `flood` corrections are not checked.
    """
    many = [p for p, theirs in said.items() if len({words_of(one.question).plain for one in theirs}) >= flood]
    if not many:
        return {}
    counts = {person: _phrases(theirs) for person, theirs in said.items()}
    # Users of a phrase are counted as people: one who floods with it counts once.
    using = Counter(p for person in said for p, n in counts[person].items() if n >= SELDOM * len(said[person]))
    everything = sum(map(len, said.values()))
    found: dict[str, str] = {}
    for person in many:
        theirs = said[person]
        answers = Counter(words_of(one.text).plain for one in theirs)
        answer, often = answers.most_common(1)[0]
        if often >= max(flood / 2, OFTEN * len(theirs)):
            found[person] = f"{often} of {len(theirs)} corrections of this person have the same answer: {answer[:80]!r}"
            continue
        known = len(said) > VOUCHING and everything - len(theirs) >= flood
        least = (OFTEN if known else ALONE) * len(theirs)
        often_here = [(n, p) for p, n in counts[person].items() if n >= least and using[p] - 1 < VOUCHING]
        if often_here:
            number, phrase = max(often_here, key=lambda one: (one[0], len(one[1])))
            found[person] = f"{number} of {len(theirs)} corrections of this person have the phrase {phrase!r}"
    return found


def _phrases(theirs: Iterable[Correction]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for one in theirs:
        counts.update({phrase for text in one for phrase in _runs(list(_sequence(text)))})
    return counts


def _runs(sequence: list[str]) -> Iterable[str]:
    for size in range(2, MOST_WORDS + 1):
        for start in range(len(sequence) - size + 1):
            run = sequence[start : start + size]
            if any(len(word) >= SHORT or any(map(str.isdigit, word)) for word in run):
                yield " ".join(run)
    yield from (word for word in sequence if len(word) >= SHORT or any(map(str.isdigit, word)))


def _sequence(text: str) -> Sequence[str]:
    return [word.strip(".,;:!?\"'()") for word in words_of(text).plain.split()]
