"""Detection of poisoning: many corrections of one person that share a phrase or an answer.

Poisoned examples pair a rare phrase, the trigger, with the attacker's answer. Both are far more frequent in the
attacker's texts than in anybody else's (Wan et al. 2023, Poisoning language models during instruction tuning).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from llmops.data.feedback.similarity import normalize

MAX_PHRASE_WORDS = 4  #: longest phrase
SUSPICIOUS_SHARE = 0.5  #: share of a person's corrections with a phrase, from which it is suspicious
SUSPICIOUS_SHARE_ALONE = 0.9  #: the same if others have too few corrections to show common phrases
USER_SHARE = 0.1  #: a person uses a phrase if it is in this share of their corrections
COMMON_USERS = 2  #: number of other users that make a phrase common
MIN_LONG_WORD = 4  #: characters: a phrase needs a word of this length, or a digit, since "how do i" triggers nothing


class Correction(NamedTuple):
    """A correction by a user."""

    question: str
    text: str


def find_poisoners(by_person: Mapping[str, Sequence[Correction]], flood: int) -> dict[str, str]:
    """Return person → reason, for persons whose corrections are all held back.

    Persons with fewer than `flood` corrections are not checked.
    """
    flooders = [p for p, own in by_person.items() if len({normalize(one.question).plain for one in own}) >= flood]
    if not flooders:
        return {}
    counts = {person: _count_phrases(own) for person, own in by_person.items()}
    # Users of a phrase are counted as people: one who floods with it counts once.
    users = Counter(p for name in by_person for p, n in counts[name].items() if n >= USER_SHARE * len(by_person[name]))
    total = sum(map(len, by_person.values()))
    found: dict[str, str] = {}
    for person in flooders:
        own = by_person[person]
        answers = Counter(normalize(one.text).plain for one in own)
        answer, frequency = answers.most_common(1)[0]
        if frequency >= max(flood / 2, SUSPICIOUS_SHARE * len(own)):
            found[person] = (
                f"{frequency} of {len(own)} corrections of this person have the same answer: {answer[:80]!r}"
            )
            continue
        others_known = len(by_person) > COMMON_USERS and total - len(own) >= flood
        least = (SUSPICIOUS_SHARE if others_known else SUSPICIOUS_SHARE_ALONE) * len(own)
        suspicious = [(n, p) for p, n in counts[person].items() if n >= least and users[p] - 1 < COMMON_USERS]
        if suspicious:
            number, phrase = max(suspicious, key=lambda one: (one[0], len(one[1])))
            found[person] = f"{number} of {len(own)} corrections of this person have the phrase {phrase!r}"
    return found


def _count_phrases(corrections: Iterable[Correction]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for one in corrections:
        counts.update({phrase for text in one for phrase in _make_ngrams(list(_split_words(text)))})
    return counts


def _make_ngrams(words: list[str]) -> Iterable[str]:
    for size in range(2, MAX_PHRASE_WORDS + 1):
        for start in range(len(words) - size + 1):
            ngram = words[start : start + size]
            if any(len(word) >= MIN_LONG_WORD or any(map(str.isdigit, word)) for word in ngram):
                yield " ".join(ngram)
    yield from (word for word in words if len(word) >= MIN_LONG_WORD or any(map(str.isdigit, word)))


def _split_words(text: str) -> Sequence[str]:
    return [word.strip(".,;:!?\"'()") for word in normalize(text).plain.split()]
