"""The policy that decides which feedback may train without a reviewer. It is a function of all feedback.

A correction by a trusted role trains. Others' words train if enough different people gave the same text to the same
question with the same context: the same question about another product has another answer. People are counted, not
keys: several keys of one owner are one person. All else waits for a reviewer.

Two texts are the same if they differ only in how they were typed (`normalize_text`). Nearly the same is not the same:
one word can be a trigger (Wan et al. 2023, Poisoning language models during instruction tuning).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Literal, NamedTuple

from llmops.config import Improve
from llmops.data.text.normalization import normalize_text

State = Literal["waiting", "accepted", "refused", "useless"]
Asked = tuple[str, str]  #: question and context, both in normal form
POLICY = "policy"  #: name of the decider if it was not a person


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedbackEntry:
    """One correction, or an answer with a good rating."""

    id: str
    kind: str  #: correction | answer
    time: str
    person: str
    trusted: bool
    counts: bool = True  #: False for a revoked key
    question: str
    context: str = ""
    answer: str  #: the model's answer
    text: str  #: the right answer
    reviewed: Literal["", "accepted", "refused"] = ""  #: decision of a reviewer
    edited: str = ""  #: the reviewer's version


class Verdict(NamedTuple):
    """The policy's verdict."""

    state: State
    why: str
    decided: str = ""  #: time of acceptance or refusal by the policy
    joined: str = ""  #: id of the entry that says the same and represents it


@dataclass(frozen=True, slots=True)
class _Opinion:
    """Unreviewed entries with the same question, context and text."""

    asked: Asked
    members: list[FeedbackEntry]  #: earliest first

    def find_supporters(self, agreeing: int, spent: Collection[str] = ()) -> list[FeedbackEntry]:
        """Return the first entries that suffice to train without a review; empty if all together do not suffice.

        People in `spent` count only if they are trusted.
        """
        supporters: list[FeedbackEntry] = []
        people: set[str] = set()
        for one in self.members:
            if one.counts and (one.trusted or one.person not in spent):
                supporters.append(one)
                people.add(one.person)
                if len(people) >= agreeing or (one.trusted and one.kind == "correction"):
                    return supporters
        return []

    def let_wait(self, why: str) -> dict[str, Verdict]:
        head = _choose_head(self.members)
        return {one.id: Verdict("waiting", why, joined="" if one is head else head.id) for one in self.members}

    def accept(self, supporters: Sequence[FeedbackEntry]) -> dict[str, Verdict]:
        head, when = _choose_head(supporters), supporters[-1].time
        people = {one.person for one in self.members if one.counts}
        trusted = {one.person for one in self.members if one.counts and one.trusted}
        why = f"{len(people)} people say the same" if len(people) > 1 else "from a trusted person"
        why += f", {len(trusted)} of them trusted" if trusted and len(people) > 1 else ""
        joined = {one.id: Verdict("accepted", f"says the same as {head.id}", when, head.id) for one in self.members}
        return joined | {head.id: Verdict("accepted", why, when)}


def judge(entries: Iterable[FeedbackEntry], rules: Improve) -> dict[str, Verdict]:
    """Return the verdicts on all unreviewed feedback. They do not depend on the order of the input."""
    entries = sorted(entries, key=lambda one: (one.time, one.id))
    verdicts: dict[str, Verdict] = {}
    decided: dict[tuple[Asked, str], FeedbackEntry] = {}  #: (question and context, text) → reviewed entry
    opinions: dict[tuple[Asked, str], _Opinion] = {}
    for one in entries:
        if one.reviewed:
            for text in filter(None, (one.text, one.edited)):
                decided.setdefault((_normalize_asked(one), _normalize(text)), one)
    for one in entries:
        if one.reviewed:
            continue
        asked, text = _normalize_asked(one), _normalize(one.text)
        if one.kind == "correction" and normalize_text(one.text) == normalize_text(one.answer):
            verdicts[one.id] = Verdict("useless", "the correction is the answer itself")
        elif (same := decided.get((asked, text))) and same.reviewed:
            why = f"the same as what a person has {same.reviewed}"
            verdicts[one.id] = Verdict(same.reviewed, why, one.time, same.id)
        else:
            opinions.setdefault((asked, text), _Opinion(asked, [])).members.append(one)
    answered = {asked for (asked, _), one in decided.items() if one.reviewed == "accepted"}
    return verdicts | _judge_opinions([*opinions.values()], answered, rules)


def _judge_opinions(opinions: Sequence[_Opinion], answered: Collection[Asked], rules: Improve) -> dict[str, Verdict]:
    verdicts: dict[str, Verdict] = {}
    by_asked: defaultdict[Asked, list[_Opinion]] = defaultdict(list)
    for opinion in opinions:
        by_asked[opinion.asked].append(opinion)
    ready: list[_Opinion] = []
    for asked, rivals in by_asked.items():
        agreed = [opinion for opinion in rivals if opinion.find_supporters(rules.agreeing)]
        for opinion in rivals:
            people = len({one.person for one in opinion.members})
            why = f"{people} {'person says' if people == 1 else 'people say'} so"
            if asked in answered:
                why = "a person has accepted another answer to this question"
            elif len(agreed) > 1 and opinion in agreed:
                why = "people who may train the model say different things"
            elif len(rivals) > 1:
                why += ", and somebody says something else"
            verdicts |= opinion.let_wait(why)
        if len(agreed) == 1 and asked not in answered:
            ready += agreed
    return verdicts | _accept_within_caps(ready, rules)


def _accept_within_caps(ready: Iterable[_Opinion], rules: Improve) -> dict[str, Verdict]:
    """Accept opinions, the earliest first, as long as enough people have not used up their weekly share."""
    verdicts: dict[str, Verdict] = {}
    taken: Counter[tuple[str, tuple[int, int]]] = Counter()  #: (person, week) → number of accepted opinions

    def rank(opinion: _Opinion) -> tuple[str, str]:
        return opinion.find_supporters(rules.agreeing)[-1].time, opinion.members[0].id

    for opinion in sorted(ready, key=rank):
        week = date.fromisoformat(rank(opinion)[0][:10]).isocalendar()[:2]
        spent = {one.person for one in opinion.members if taken[one.person, week] >= rules.person_weekly}
        if supporters := opinion.find_supporters(rules.agreeing, spent):
            verdicts |= opinion.accept(supporters)
            taken.update({(one.person, week) for one in supporters if not one.trusted})
        else:
            verdicts |= opinion.let_wait("enough people say so, but some of them have used up their weekly share")
    return verdicts


def _choose_head(entries: Sequence[FeedbackEntry]) -> FeedbackEntry:
    """Return the entry that represents all: a trusted person's, else the shortest, which hides no characters."""
    return min(entries, key=lambda one: (not one.trusted, len(one.question + one.context + one.text), one.time, one.id))


def _normalize_asked(entry: FeedbackEntry) -> Asked:
    return _normalize(entry.question), _normalize(entry.context)


def _normalize(text: str) -> str:
    return normalize_text(text, keep_closing=False) or normalize_text(text)  # "?" and "!" are not the same
