"""The policy that decides which feedback may train without a reviewer. It is a function of all feedback.

People who say the same about one question make one example. An untrusted person alone cannot add anything: their weight
is `1 / agreeing`, so that (by default) two must agree. They must be different people, not different keys of one.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Literal, NamedTuple

from llmops.config import Improve
from llmops.data.feedback.poison import Correction, find_poisoners
from llmops.data.feedback.similarity import compute_f1, extract_tokens, is_same_answer, is_same_question, normalize

State = Literal["waiting", "accepted", "refused", "held", "useless"]
POLICY = "policy"  #: name of the decider if it was not a person
_EPSILON = 1e-9


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


def judge(entries: Sequence[FeedbackEntry], rules: Improve) -> dict[str, Verdict]:
    """Return the verdicts on all unreviewed feedback. They do not depend on the order of the input."""
    entries = sorted(entries, key=lambda one: (one.time, one.id))
    verdicts: dict[str, Verdict] = {}
    corrections: defaultdict[str, list[Correction]] = defaultdict(list)
    for one in entries:
        if one.kind == "correction" and not one.trusted:
            corrections[one.person].append(Correction(one.question, one.text))
    poisoned = find_poisoners(corrections, rules.flood)
    remaining: list[FeedbackEntry] = []
    for one in entries:
        if not one.reviewed and normalize(one.text).plain == normalize(one.answer).plain and one.kind == "correction":
            verdicts[one.id] = Verdict("useless", "the correction is the answer itself")
        elif not one.reviewed and not one.trusted and one.person in poisoned:
            verdicts[one.id] = Verdict("held", poisoned[one.person])
        else:
            remaining.append(one)
    ready: list[_Opinion] = []
    for same_question in _group_by_question(remaining, rules.same_question):
        opinions = _group_by_opinion(same_question, rules)
        accepted_id = _find_accepted(opinions)
        for opinion in opinions:
            verdicts |= opinion.make_verdicts(accepted_id, len(opinions) > 1)
        if accepted_id == "":
            agreed = [
                o
                for o in opinions
                if not o.members[0].reviewed and o.find_agreement_time(rules.agreeing, vouched=False)
            ]
            enough = [opinion for opinion in agreed if opinion.has_agreement(rules.agreeing)]
            unvouched = "enough people say nearly the same, but each text has words that nobody else has said"
            verdicts |= {i: v._replace(why=unvouched) for o in agreed for i, v in o.make_verdicts("").items()}
            if len(enough) > 1:
                why = "people who may train the model say different things"
                verdicts |= {id: v._replace(why=why) for o in enough for id, v in o.make_verdicts("").items()}
            else:
                ready += enough
    for opinion in ready:
        spent = "enough people say so, but some of them have used up their weekly share"
        verdicts |= {id: verdict._replace(why=spent) for id, verdict in opinion.make_verdicts("").items()}
    for opinion in _apply_weekly_caps(ready, rules):
        verdicts |= opinion.make_accepting_verdicts(rules.agreeing)
    reviewed = {one.id for one in entries if one.reviewed}
    return {id: verdict for id, verdict in verdicts.items() if id not in reviewed}


@dataclass(frozen=True, slots=True)
class _Opinion:
    """Entries that say the same about one question."""

    members: tuple[FeedbackEntry, ...]  #: the first one represents all
    spent: frozenset[str] = frozenset()  #: people who have used up their share

    def find_voters(self) -> dict[str, FeedbackEntry]:
        """Return person → first entry, for people whose word counts."""
        first: dict[str, FeedbackEntry] = {}
        for one in sorted(self.members, key=lambda one: (one.time, one.id)):
            if one.counts and (one.trusted or one.person not in self.spent):
                first.setdefault(one.person, one)
        return first

    def find_agreement_time(self, agreeing: int, vouched: bool = True) -> str:
        """Return the time at which enough people agreed; empty: not yet.

        With `vouched`, there must be an entry then that may represent all (`_find_head`).
        """
        weight, people, alike = 0.0, 0, all(one.kind == "answer" for one in self.members)
        for one in self.find_voters().values():
            weight, people = weight + (1.0 if one.trusted else 1 / agreeing), people + 1
            enough = weight >= 1 - _EPSILON and (people >= 2 or not alike)  # good ratings always need two people
            if enough and not (vouched and self._find_head(one.time) is None):
                return one.time
        return ""

    def _find_head(self, when: str) -> FeedbackEntry | None:
        """Return the entry that represents all until then: a trusted person's, or one in words that others used, too.

        Later agreement does not change it.
        """
        voters = self.find_voters()
        by_then = [one for one in self.members if one.time <= when and one.counts and one.person in voters]
        return next((one for one in _put_head_first(by_then) if one.trusted or _is_vouched(one, by_then)), None)

    def has_agreement(self, agreeing: int) -> bool:
        return bool(self.find_agreement_time(agreeing))

    def make_accepting_verdicts(self, agreeing: int) -> dict[str, Verdict]:
        when, voters = self.find_agreement_time(agreeing), self.find_voters()
        head = self._find_head(when) or self.members[0]
        trusted = sorted({one.person for one in voters.values() if one.trusted})
        why = f"{len(voters)} people say the same" if len(voters) > 1 else "from a trusted person"
        why += f", {len(trusted)} of them trusted" if trusted and len(voters) > 1 else ""
        joined = {one.id: Verdict("accepted", f"says the same as {head.id}", when, head.id) for one in self.members}
        return joined | {head.id: Verdict("accepted", why, when)}

    def make_verdicts(self, accepted_id: str, disputed: bool = False) -> dict[str, Verdict]:
        """Return the verdicts before the policy accepts an opinion: as reviewed, or waiting."""
        head = self.members[0]
        if head.reviewed:
            state: State = head.reviewed
            why = f"the same as what a person has {head.reviewed}"
        elif accepted_id:
            state, why = "waiting", "a person has accepted another answer to this question"
        else:
            people = len({one.person for one in self.members})
            state, why = "waiting", f"{people} {'person says' if people == 1 else 'people say'} so"
            why += ", and somebody says something else" if disputed else ""
        when = max(one.time for one in self.members) if head.reviewed else ""
        return {one.id: Verdict(state, why, when, head.id if one is not head else "") for one in self.members}


def _find_accepted(opinions: Sequence[_Opinion]) -> str:
    return next((o.members[0].id for o in opinions if o.members[0].reviewed == "accepted"), "")


def _group_by_question(entries: Sequence[FeedbackEntry], least: float) -> list[list[FeedbackEntry]]:
    """Group entries by question. Each entry is compared with a group's first one."""
    groups: list[list[FeedbackEntry]] = []
    exact: dict[str, list[FeedbackEntry]] = {}
    groups_by_word: defaultdict[str, set[int]] = defaultdict(set)  #: word → groups whose first question has it
    for one in entries:
        words = normalize(one.question)
        group = exact.get(words.plain)
        if group is None:
            shared = Counter(number for word in words.bag for number in groups_by_word[word])
            likely = (n for n, count in sorted(shared.items()) if count >= least * len(words.bag))
            found = next((n for n in likely if is_same_question(groups[n][0].question, one.question, least)), None)
            if found is None:
                groups.append([])
                for word in words.bag:
                    groups_by_word[word].add(len(groups) - 1)
            group = exact[words.plain] = groups[-1 if found is None else found]
        group.append(one)
    return groups


def _group_by_opinion(same_question: Sequence[FeedbackEntry], rules: Improve) -> list[_Opinion]:
    """Group entries about one question by what they say. A reviewed entry represents its group."""
    groups: list[list[FeedbackEntry]] = []
    for one in sorted(same_question, key=lambda one: not one.reviewed):
        for group in groups:
            head, least = group[0], rules.agreement
            texts = (head.text, head.edited) if head.edited else (head.text,)
            if not one.reviewed and any(is_same_answer(text, one.text, least) for text in texts):
                group.append(one)
                break
        else:
            groups.append([one])
    return [_Opinion(tuple(group if group[0].reviewed else _put_head_first(group))) for group in groups]


def _put_head_first(group: Sequence[FeedbackEntry]) -> list[FeedbackEntry]:
    """Put the entry first that represents all: trusted, else most similar to the others, else shortest.

    An addition that only one person makes is in none of the others' entries. So it does not get in, however often it is
    repeated.
    """
    firsts: dict[str, FeedbackEntry] = {}
    for one in sorted(group, key=lambda one: (one.time, one.id)):
        firsts.setdefault(one.person, one)

    def measure_likeness(one: FeedbackEntry) -> float:
        return sum(compute_f1(normalize(one.text), normalize(other.text)) for other in firsts.values())

    def rank(one: FeedbackEntry) -> tuple[bool, float, int, str, str]:
        return not one.trusted, -round(measure_likeness(one), 6), len(one.text), one.time, one.id

    head = min(group, key=rank)
    return [head, *(one for one in group if one is not head)]


def _is_vouched(one: FeedbackEntry, entries: Iterable[FeedbackEntry]) -> bool:
    """Return True if other people have used every word of an entry, question and context included."""
    others = [other for other in entries if other.person != one.person]
    return all(
        extract_tokens(getattr(one, name))
        <= frozenset[str]().union(*(extract_tokens(getattr(other, name)) for other in others))
        for name in ("question", "context", "text")
    )


def _apply_weekly_caps(ready: Iterable[_Opinion], rules: Improve) -> list[_Opinion]:
    """Return the opinions with enough people who have not used up their weekly share, earliest first."""
    taken: Counter[tuple[str, str]] = Counter()  #: (person, week) → number of accepted entries
    weeks: defaultdict[str, list[_Opinion]] = defaultdict(list)
    for opinion in sorted(ready, key=lambda o: (o.find_agreement_time(rules.agreeing), o.members[0].id)):
        week = _format_week(opinion.find_agreement_time(rules.agreeing))
        spent = {p for p in opinion.find_voters() if taken[p, week] >= rules.person_weekly}
        allowed = replace(opinion, spent=frozenset(spent))
        if allowed.has_agreement(rules.agreeing):
            weeks[week].append(allowed)
            taken.update((person, week) for person, one in allowed.find_voters().items() if not one.trusted)
    return [opinion for opinions in weeks.values() for opinion in _apply_person_shares(opinions, rules)]


def _apply_person_shares(opinions: list[_Opinion], rules: Improve) -> list[_Opinion]:
    """Return a week's opinions. Drop the latest ones of people who exceed a person's share."""
    kept = list(opinions)
    while kept:
        share: defaultdict[str, float] = defaultdict(float)
        for opinion in kept:
            voters = opinion.find_voters()
            for person, one in voters.items():
                share[person] += 0 if one.trusted else 1 / len(voters)
        most, value = max(share.items(), key=lambda item: (item[1], item[0]), default=("", 0))
        if value <= rules.person_share * len(kept) + _EPSILON:
            return kept
        last = max(n for n, opinion in enumerate(kept) if most in opinion.find_voters())
        without = replace(kept[last], spent=kept[last].spent | {most})
        kept[last : last + 1] = [without] if without.has_agreement(rules.agreeing) else []
    return kept


def _format_week(time: str) -> str:
    year, week, _ = date.fromisoformat(time[:10]).isocalendar()
    return f"{year}-W{week:02}"
