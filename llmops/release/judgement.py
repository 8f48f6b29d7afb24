"""One candidate before the gate: find its decision, or decide at the level that is left, and publish its version."""

import contextlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import sqlalchemy as sa

from llmops.config import Release
from llmops.data.text.normalization import hash_wording
from llmops.frame.artifacts import Record, write_atomically
from llmops.frame.errors import ArtifactError
from llmops.frame.statistics.sign_flip import compute_smallest_level
from llmops.release import ledger
from llmops.release.gate import GateDecision, Scores, decide, describe_comparison
from llmops.release.ledger import Attempt, Chance, LedgerChanged
from llmops.release.registry import decisions
from llmops.release.registry.registry import Registry, explain_void
from llmops.release.registry.version import Version

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class GateCandidate:
    """A candidate with its scores and those of its opponent."""

    scores: Scores
    opponent_scores: Scores
    opponent: str  #: "base" or a version
    compress: str  #: fingerprint of the artifact it was made from
    identity: str  #: hash of all its inputs and of its judgement's, except seeds
    items: tuple[str, ...]  #: ids of the items in the ledger
    new_topics: int = 0  #: topics with new feedback since its opponent was trained, if no other rows have changed
    opponent_erased: bool = False  #: its opponent was trained on rows that were erased
    index: str = ""  #: artifact of the documents that it answered with; empty: none
    closed_book: bool = False  #: its opponent answered without documents
    replaces_nothing: bool = False  #: nothing is served yet, and `release.serve_documents` asks no gate
    why_held_back: str = ""  #: reason against an index that is held back for its opponent
    retrained_identity: str = ""  #: `identity` with its opponent's training rows; empty if other rows changed, too

    @property
    def test(self) -> str:
        """Return the frozen test of the judgement."""
        return ledger.hash_test(self.items)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A candidate with everything that its version is made of."""

    candidate: GateCandidate
    facts: Mapping[str, Any]  #: fields of the version, except its status
    trees: Callable[[], Mapping[str, Path]]  #: returns its folders and files by name
    records: Mapping[str, Record]  #: of the artifacts that it was made from, by stage
    evaluation: Mapping[str, Any]
    governance: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Judgement:
    """The gate's decision on a candidate."""

    candidate: GateCandidate
    config: Release
    decision: GateDecision
    chance: Chance | None  #: level and budget of the decision; None if it is an earlier one

    def finalize(self, version: Version) -> GateDecision:
        """Return the final decision: inconclusive if the champion changed meanwhile."""
        if version.compared_with:
            return self.decision
        why = explain_void(self.candidate.opponent)
        if self.chance is None:
            return replace(self.decision, outcome="inconclusive", reasons=(why,), attempt=0)
        return _decide(self.candidate, self.config, self.chance, why)

    def record_attempt(self, connection: sa.Connection, version: Version) -> None:
        """Write the attempt into the ledger, in the transaction that publishes the version; nothing if none is spent.

        Raises:
            LedgerChanged: if another attempt was recorded meanwhile, so that the level is another.
        """
        final = self.finalize(version)
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
        ledger.record_attempt(connection, self.config.name, self.chance, attempt)


def publish(
    bundle: Bundle,
    config: Release,
    registry: Registry,
    make_files: Callable[[Bundle, Version, GateDecision], Mapping[str, str]],
    canary: float = 0.0,
) -> tuple[Version, GateDecision]:
    """Decide on a candidate and publish its version.

    Args:
        bundle: the candidate.
        config: of the gate.
        registry: of the model.
        make_files: returns the version's text files.
        canary: share of the callers for a canary, see `Registry.publish`.
    """
    candidate = bundle.candidate
    while True:
        judgement = judge_candidate(candidate, config, registry)
        decided = judgement.decision
        numbers = {**decided.as_json(), "test": candidate.test, "compress": candidate.compress}
        with contextlib.suppress(LedgerChanged):  # another candidate was decided on meanwhile: judge again
            trees, known = bundle.trees(), registry.find_by_compress(candidate.compress)

            def record(connection: sa.Connection, version: Version) -> None:
                judgement.record_attempt(connection, version)  # noqa: B023
                if candidate.index and judgement.chance and known:  # noqa: B023
                    answers = trees["answers.parquet"].read_bytes()  # noqa: B023
                    write_atomically(version.path / "answers.parquet", answers)  # of the decision's index

            version = registry.publish(
                {**bundle.facts, "status": decided.outcome},
                trees,
                lambda version: make_files(bundle, version, judgement.finalize(version)),  # noqa: B023
                by="gate",
                why="; ".join(decided.reasons),
                numbers=numbers,
                canary=canary,
                on_publish=record,
            )
            return version, judgement.finalize(version)


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
        chosen = [row for row in rows if row["model"] == model]
        if not chosen:
            raise ArtifactError(f"{answers} has no answers of the model {model!r}; run `llmops run evaluate` again.")
        values = {m: [float("nan") if row[m] is None else float(row[m]) for row in chosen] for m in metrics}
        return Scores(tuple(row["id"] for row in chosen), tuple(row["group"] for row in chosen), values)

    return scores(candidate), scores(opponent)


def read_items(answers: Path) -> tuple[str, ...]:
    """Return the ids of the test items of an `answers.parquet`, for the ledger."""
    rows = pq.read_table(answers, columns=["question", "context"]).to_pylist()
    return tuple(sorted({hash_wording(row["question"], row["context"]) for row in rows}))


def judge_candidate(candidate: GateCandidate, config: Release, registry: Registry) -> Judgement:
    """Return the gate's decision: the earlier one if this candidate was compared with this opponent, else a new one."""
    version, test = registry.find_by_compress(candidate.compress), candidate.test
    name = version.name if version else ""
    with registry.database.read() as connection:
        attempts = ledger.read(connection, config.name)
        earlier = decisions.read(connection, config.name, name, "gate") if name else []
    if candidate.replaces_nothing:
        left = ledger.compute_next_chance(attempts, candidate.items)
        return Judgement(candidate, config, _serve_first(candidate, config, left), None)
    key = (name, test, candidate.identity)
    if version and version.compared_with:
        spent = [a.number for a in attempts if (a.version, a.test, a.identity) == key]
        for numbers in (decision["numbers"] for decision in reversed(earlier)):
            is_same = numbers.get("test") == test and numbers.get("opponent") == candidate.opponent
            if is_same and numbers["attempt"] in spent:
                return Judgement(candidate, config, GateDecision.from_json(numbers), None)
    chance, why = ledger.compute_next_chance(() if candidate.opponent_erased else attempts, candidate.items), ""
    if twin := ledger.find_reseeded(attempts, test, candidate.identity, name):
        why = (
            f"but for seeds it was made by the same data, base model, settings, code and libraries as "
            f"{twin.version}, which was {twin.outcome} on the same frozen test"
        )
    elif (candidate.opponent, candidate.retrained_identity) in {(a.version, a.identity) for a in attempts}:
        why = _explain_too_little(candidate, chance)
    return Judgement(candidate, config, _decide(candidate, config, chance, why), chance)


def _serve_first(candidate: GateCandidate, config: Release, chance: Chance) -> GateDecision:
    """Return the decision on a first version that replaces nothing: its figures, and no attempt is spent."""
    measured = _decide(candidate, config, chance, "")
    reasons = (
        "nothing was served yet, so this version replaces nothing and the gate was not asked (release.serve_documents)",
        *(describe_comparison(c, candidate.opponent, measured.level) for c in measured.comparisons),
        measured.reasons[-1],
    )
    return replace(measured, outcome="promoted", reasons=reasons, attempt=0, left=chance.budget)


def _explain_too_little(candidate: GateCandidate, chance: Chance) -> str:
    """Return why feedback on so few topics decides nothing: they get better by luck too often. Empty: they suffice."""
    if compute_smallest_level(candidate.new_topics) <= chance.level:
        return ""
    needed = next(
        (count for count in range(candidate.new_topics, 100) if compute_smallest_level(count) <= chance.level), "more"
    )
    if not candidate.new_topics:
        return f"it was trained on the very rows that {candidate.opponent} was trained on"
    topics = "1 topic" if candidate.new_topics == 1 else f"{candidate.new_topics} topics"
    return (
        f"all that is new since {candidate.opponent} is users' feedback on {topics}, and at least {needed} are "
        f"needed: fewer get better by luck more often than the level of {chance.level:.2g} allows"
    )


def _decide(candidate: GateCandidate, config: Release, chance: Chance, why: str) -> GateDecision:
    lenient = f"{candidate.opponent} learned from a person who was forgotten" if candidate.opponent_erased else ""
    decision = decide(candidate.scores, candidate.opponent_scores, config, candidate.opponent, chance, why, lenient)
    if candidate.why_held_back and decision.outcome == "promoted":
        decision = replace(decision, outcome="rejected", reasons=(candidate.why_held_back, *decision.reasons))
    if not candidate.index:
        return decision
    opponent = f"{candidate.opponent} without" if candidate.closed_book else f"and so did {candidate.opponent}"
    note = f"it answered with the documents of {candidate.index}, {opponent}"
    return replace(decision, index=candidate.index, reasons=(*decision.reasons, note))
