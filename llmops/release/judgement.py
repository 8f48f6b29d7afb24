"""One candidate before the gate: whether it has been decided on, with what level if not, and what that spends."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from llmops.artifacts import file_sha256
from llmops.config import Release
from llmops.registry import decisions
from llmops.registry.registry import Registry, void
from llmops.registry.version import QUOTE, Version, read_version
from llmops.release import ledger
from llmops.release.gate import Decision, Scores, decide
from llmops.release.ledger import Attempt, Chance
from llmops.statistics.sign_flip import smallest_level


@dataclass(frozen=True, slots=True)
class Candidate:
    """What is asked of the gate."""

    scores: Scores
    opponent_scores: Scores
    opponent: str  #: "base" or a version
    compress: str  #: fingerprint of the artifact it was made from
    identity: str  #: what made it and what judges it, but seeds
    items: tuple[str, ...]  #: ids by which the ledger knows the items
    #: topics of the test that users have told of since the opponent was made, where nothing else is new; None:
    #: something else is, or it cannot be told
    lessons: int | None = None
    same: str = ""  #: how it and its opponent answer from documents alike, whatever is asked; empty: they may differ
    alone: frozenset[str] = frozenset()  #: topics that it was taught and its opponent was not, as far as can be told

    @property
    def test(self) -> str:
        """The frozen test that it was asked."""
        return ledger.frozen_test(self.items)


@dataclass(frozen=True, slots=True)
class Judgement:
    """The gate's decision on a candidate."""

    candidate: Candidate
    config: Release
    decision: Decision
    chance: Chance | None  #: what it was decided with; None if that was earlier

    def counting(self, version: Version) -> Decision:
        """The decision as it counts: not at all if the champion changed while it was made."""
        if version.compared_with:
            return self.decision
        why = void(self.candidate.opponent)
        if self.chance is None:
            return replace(self.decision, outcome="inconclusive", reasons=(why,), attempt=0)
        return _decide(self.candidate, self.config, self.chance, why)

    def numbers(self) -> dict[str, Any]:
        """What the registry keeps of the decision."""
        return {**asdict(self.decision), "test": self.candidate.test}

    def spend(self, connection: sa.Connection, version: Version) -> None:
        """Write down the attempt, in the transaction that publishes the version; nothing if none is spent.

        Raises:
            LedgerMoved: if another attempt came between: the level was not this one's.
        """
        final = self.counting(version)
        if self.chance is None or not final.attempt:
            return
        attempt = Attempt(
            test=self.candidate.test,
            number=final.attempt,
            version=version.name,
            identity=self.candidate.identity,
            asked=self.candidate.items,
            level=self.chance.level,
            left=final.left,
            outcome=final.outcome,
        )
        ledger.spend(connection, self.config.name, self.chance, attempt)


def judge(candidate: Candidate, config: Release, registry: Registry) -> Judgement:
    """The gate's decision: the one there was if this candidate has been compared with this opponent, else a new one."""
    version, test = registry.made_from(candidate.compress), candidate.test
    name = version.name if version else ""
    with registry.database.read() as connection:
        attempts = ledger.read(connection, config.name)
        said = decisions.read(connection, config.name, name, "gate") if name else []
    if version and version.compared_with:
        here = [a for a in attempts if (a.version, a.test) == (name, test)]
        asked = [a.number for a in here if ledger.is_settled(a, candidate.identity)]
        for numbers in (one["numbers"] for one in reversed(said)):
            there = numbers.get("test") == test and numbers.get("opponent") == candidate.opponent
            if there and numbers["attempt"] in asked:
                return Judgement(candidate, config, Decision.of(numbers), None)
    chance, why = ledger.next_chance(attempts, candidate.items), ""
    if earlier := ledger.twin(attempts, test, candidate.identity, name):
        why = (
            f"but for seeds it was made by the same data, base model, settings, code and libraries as "
            f"{earlier.version}, which was {earlier.outcome} on the same frozen test"
        )
    elif candidate.same:
        why = (
            f"{candidate.opponent} answers from the documents in the same way, {candidate.same}; what they say now is "
            "served whatever is decided"
        )
    elif candidate.lessons is not None and smallest_level(candidate.lessons) > chance.level:
        why = _too_few(candidate.lessons, candidate.opponent, chance.level)
    return Judgement(candidate, config, _decide(candidate, config, chance, why), chance)


def _too_few(lessons: int, opponent: str, level: float) -> str:
    """Why so few topics can decide nothing: as many get better by luck too often, whatever is answered."""
    needed = next((count for count in range(lessons, 1000) if smallest_level(count) <= level), None)
    topics = f"{lessons or 'no'} topic{'s' if lessons > 1 else ''} of that"
    told = f"all that is new since {opponent} is what users have said, and the test has {topics}"
    if needed is None:
        return f"{told}; it has been asked too often for any number of them to reach the level of {level:.2g}"
    return (
        f"{told}, where at least {needed} are needed: fewer get better by luck more often than the level of "
        f"{level:.2g} allows; a topic is in the test from its second wording on"
    )


def _decide(candidate: Candidate, config: Release, chance: Chance, why: str) -> Decision:
    return decide(candidate.scores, candidate.opponent_scores, config, candidate.opponent, chance, why, candidate.alone)


def alike(champion: Path, servable: Path, answers: str) -> str:
    """How a version and a model that is served as `answers` says answer from documents alike, whatever is asked: both
    quote them, or are the same model, file by file. Empty: they may differ."""
    if read_version(champion).answers != answers:
        return ""
    if answers == QUOTE:
        return "by quoting them"
    ours, theirs = (
        {str(file.relative_to(folder)): file_sha256(file) for file in folder.rglob("*") if file.is_file()}
        for folder in (servable, champion / "servable")
    )
    return "by the same model" if ours == theirs else ""
