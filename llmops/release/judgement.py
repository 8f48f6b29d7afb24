"""One candidate before the gate: find its decision, or decide at the level that is left, and publish its version."""

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import sqlalchemy as sa

from llmops.config import Release
from llmops.data.text.comparable import wording_id
from llmops.frame.artifacts import Record, write_whole
from llmops.frame.errors import ArtifactError
from llmops.frame.statistics.sign_flip import smallest_level
from llmops.release import ledger
from llmops.release.gate import Decision, Scores, decide
from llmops.release.ledger import Attempt, Chance, LedgerMoved
from llmops.release.registry import decisions
from llmops.release.registry.registry import Registry, void
from llmops.release.registry.version import Version
from llmops.release.registry.view import BASE


@dataclass(frozen=True, slots=True)
class Candidate:
    """A candidate with its scores and those of its opponent."""

    scores: Scores
    opponent_scores: Scores
    opponent: str  #: "base" or a version
    compress: str  #: fingerprint of the artifact it was made from
    identity: str  #: what made it and what judges it, but seeds
    items: tuple[str, ...]  #: ids by which the ledger knows the items
    told: int = 0  #: topics that users have told of since its opponent was trained, if no other rows have changed
    marked: bool = False  #: whether its opponent learned from a person who was forgotten since
    index: str = ""  #: artifact of the documents that it answered with; empty: none
    closed_book: bool = False  #: whether its opponent answered without them
    worse: str = ""  #: reason why it may not bring in an index that is held back for its opponent
    like: str = ""  #: its identity, had it been trained on its opponent's rows; empty where other rows have changed

    @property
    def test(self) -> str:
        """Return the frozen test of the judgement."""
        return ledger.frozen_test(self.items)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A candidate, and all that its version is made of."""

    candidate: Candidate
    facts: Mapping[str, Any]  #: of the version, except its status
    trees: Callable[[], Mapping[str, Path]]  #: returns its folders and files by name
    records: Mapping[str, Record]  #: behind it, by stage
    evaluation: Mapping[str, Any]
    governance: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Judgement:
    """The gate's decision on a candidate."""

    candidate: Candidate
    config: Release
    decision: Decision
    chance: Chance | None  #: what it was decided with; None if that was earlier

    def counting(self, version: Version) -> Decision:
        """Return the decision as it counts: not at all if the champion changed while it was made."""
        if version.compared_with:
            return self.decision
        why = void(self.candidate.opponent)
        if self.chance is None:
            return replace(self.decision, outcome="inconclusive", reasons=(why,), attempt=0)
        return _decide(self.candidate, self.config, self.chance, why)

    def spend(self, connection: sa.Connection, version: Version | None) -> None:
        """Write down the attempt, in the transaction that publishes the version; nothing if none is spent.

        Without a version it is one of the base model, which is not published.

        Raises:
            LedgerMoved: if another attempt came between: the level was not this one's.
        """
        final = self.counting(version) if version else self.decision
        if self.chance is None or not final.attempt:
            return
        attempt = Attempt(
            test=self.candidate.test,
            number=final.attempt,
            version=version.name if version else BASE,
            identity=self.candidate.identity,
            asked=self.candidate.items,
            level=self.chance.level,
            left=final.left,
            outcome=final.outcome,
        )
        ledger.spend(connection, self.config.name, self.chance, attempt)


def publish(
    bundle: Bundle,
    config: Release,
    registry: Registry,
    documents: Callable[[Bundle, Version, Decision], Mapping[str, str]],
    canary: float = 0.0,
) -> tuple[Version | None, Decision]:
    """Decide on a candidate and publish its version. The base with documents is published only if the gate passes it.

    Args:
        bundle: the candidate.
        config: of the gate.
        registry: of the model.
        documents: returns the version's text files.
        canary: share of the callers for a canary, see `Registry.publish`.
    """
    candidate = bundle.candidate
    while True:
        judgement = judge(candidate, config, registry)
        decided = judgement.decision
        numbers = {**decided.document(), "test": candidate.test, "compress": candidate.compress}
        with contextlib.suppress(LedgerMoved):  # somebody else was decided on meanwhile: the level is another
            if candidate.closed_book and decided.outcome != "promoted":
                with registry.changing() as connection:
                    judgement.spend(connection, None)
                return None, decided
            trees, known = bundle.trees(), registry.made_from(candidate.compress)
            if candidate.index and judgement.chance and known:  # a decision and its answers are of the same index
                write_whole(known.path / "answers.parquet", trees["answers.parquet"].read_bytes())
            version = registry.publish(
                {**bundle.facts, "status": decided.outcome},
                trees,
                lambda version: documents(bundle, version, judgement.counting(version)),  # noqa: B023
                by="gate",
                why="; ".join(decided.reasons),
                numbers=numbers,
                canary=canary,
                also=judgement.spend,
            )
            return version, judgement.counting(version)


def read_scores(answers: Path, opponent: str, candidate: str = "candidate") -> tuple[Scores, Scores]:
    """Return the candidate's scores and those of `opponent` ("base" or "champion") from an `answers.parquet`.

    Raises:
        ArtifactError: if a model has no answers in it.
    """
    table = pq.read_table(answers)
    texts = {"id", "question", "context", "reference", "source", "group", "model", "answer"}
    metrics = [name for name in table.column_names if name not in texts]
    rows = table.to_pylist()

    def scores(model: str) -> Scores:
        mine = [row for row in rows if row["model"] == model]
        if not mine:
            raise ArtifactError(f"{answers} has no answers of the model {model!r}; run `llmops run evaluate` again.")
        values = {m: [float("nan") if row[m] is None else float(row[m]) for row in mine] for m in metrics}
        return Scores(tuple(row["id"] for row in mine), tuple(row["group"] for row in mine), values)

    return scores(candidate), scores(opponent)


def read_items(answers: Path) -> tuple[str, ...]:
    """Return the ids by which the ledger knows the test items of an `answers.parquet`."""
    rows = pq.read_table(answers, columns=["question", "context"]).to_pylist()
    return tuple(sorted({wording_id(row["question"], row["context"]) for row in rows}))


def judge(candidate: Candidate, config: Release, registry: Registry) -> Judgement:
    """Return the gate's decision: the earlier one if this candidate was compared with this opponent, else a new one."""
    version, test = registry.made_from(candidate.compress), candidate.test
    name = version.name if version else ""
    with registry.database.read() as connection:
        attempts = ledger.read(connection, config.name)
        said = decisions.read(connection, config.name, name, "gate") if name else []
    question = (name, test, candidate.identity)
    if version and version.compared_with:
        asked = [a.number for a in attempts if (a.version, a.test, a.identity) == question]
        for numbers in (one["numbers"] for one in reversed(said)):
            there = numbers.get("test") == test and numbers.get("opponent") == candidate.opponent
            if there and numbers["attempt"] in asked:
                return Judgement(candidate, config, Decision.of(numbers), None)
    chance, why = ledger.next_chance(() if candidate.marked else attempts, candidate.items), ""
    if earlier := ledger.twin(attempts, test, candidate.identity, name):
        why = (
            f"but for seeds it was made by the same data, base model, settings, code and libraries as "
            f"{earlier.version}, which was {earlier.outcome} on the same frozen test"
        )
    elif (candidate.opponent, candidate.like) in {(a.version, a.identity) for a in attempts}:
        why = _too_little(candidate, chance)
    return Judgement(candidate, config, _decide(candidate, config, chance, why), chance)


def _too_little(candidate: Candidate, chance: Chance) -> str:
    """Say why so few new topics can decide nothing: so few get better by luck too often. Empty: they can."""
    if smallest_level(candidate.told) <= chance.level:
        return ""
    needed = next((count for count in range(candidate.told, 100) if smallest_level(count) <= chance.level), "more")
    if not candidate.told:
        return f"it was trained on the very rows that {candidate.opponent} was trained on"
    topics = "1 topic" if candidate.told == 1 else f"{candidate.told} topics"
    return (
        f"all that is new since {candidate.opponent} is what users have said of {topics}, and at least {needed} are "
        f"needed: fewer get better by luck more often than the level of {chance.level:.2g} allows"
    )


def _decide(candidate: Candidate, config: Release, chance: Chance, why: str) -> Decision:
    lenient = f"{candidate.opponent} learned from a person who was forgotten" if candidate.marked else ""
    decision = decide(candidate.scores, candidate.opponent_scores, config, candidate.opponent, chance, why, lenient)
    if candidate.worse and decision.outcome == "promoted":
        decision = replace(decision, outcome="rejected", reasons=(candidate.worse, *decision.reasons))
    if not candidate.index:
        return decision
    who = f"{candidate.opponent} without" if candidate.closed_book else f"and so did {candidate.opponent}"
    note = f"it answered with the documents of {candidate.index}, {who}"
    return replace(decision, index=candidate.index, reasons=(*decision.reasons, note))
