"""The base model with documents as a version, where the gate has rejected the first candidate.

It becomes champion if it answers the frozen test better with the documents than without, by the rules of the gate and
at the level that the test has left. Its `answers.parquet` and `evaluation.json` call it the candidate, and its answers
without documents the base, so that readers of a version find what they look for.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from llmops.artifacts import Record
from llmops.config import Release
from llmops.records import base_path, write_table
from llmops.registry.registry import Registry
from llmops.registry.version import Version
from llmops.registry.view import BASE
from llmops.release import ledger
from llmops.release.gate import Decision, Scores
from llmops.release.judgement import Candidate, judge
from llmops.release.ledger import LedgerMoved

CLOSED_BOOK = "base_closed_book"  #: its answers without documents, in `answers.parquet` and `evaluation.json`
_OF_CANDIDATE = ("annotate", "features", "tune", "train", "compress", "govern")  #: stages

_NOT_REVIEWED: Mapping[str, Any] = {
    "verdict": "not judged",
    "reasons": ["the run judged the rejected candidate; the daily review judges this version"],
    "counts": [],
}

#: (version, decision, records behind it, evaluation, governance) → text files of the version
Documents = Callable[[Version, Decision, Mapping[str, Record], Mapping[str, Any], Mapping[str, Any]], Mapping[str, str]]


def release_base(
    rejected: Candidate,
    facts: Mapping[str, Any],
    scores: tuple[Scores, Scores],
    config: Release,
    registry: Registry,
    known: Mapping[str, Record],
    selection: Mapping[str, Any],
    evaluation: Mapping[str, Any],
    documents: Documents,
    *,
    select: Path,
    compress: Path,
    evaluate: Path,
    out: Path,
) -> tuple[Version, Decision] | None:
    """Publish the base with documents as a version if the gate passes it; return both, or None.

    Args:
        rejected: the candidate in whose place it is judged.
        facts: of the candidate's version; the base shares the base model's.
        scores: of the base with documents and without.
        config: of the gate.
        registry: of the model.
        known: the records behind the release.
        selection: content of `selection.json`.
        evaluation: content of `evaluation.json`.
        documents: writes the version's files.
        select: the artifact with the base model.
        compress: the artifact whose engine the base was measured with.
        evaluate: the artifact with the answers.
        out: folder for files of the version; they are gone afterwards.
    """
    identity = ledger.untrained_identity(known, config, selection)
    champion = registry.champion()
    if champion and champion.compress != identity:
        return None
    candidate = replace(
        rejected, scores=scores[0], opponent_scores=scores[1], compress=identity, identity=identity, closed_book=True
    )
    records = {stage: record for stage, record in known.items() if stage not in _OF_CANDIDATE}
    mine = {key: value for key, value in evaluation.items() if key not in ("slices", "differences", "beside")}
    mine["models"] = {"candidate": evaluation["models"][BASE], BASE: evaluation["beside"][CLOSED_BOOK]}
    scratch = out / ".base"

    def texts(version: Version) -> Mapping[str, str]:
        return documents(version, judgement.counting(version), records, mine, _NOT_REVIEWED)

    while True:
        judgement = judge(candidate, config, registry)
        decided = judgement.decision
        why, numbers = "; ".join(decided.reasons), {**judgement.numbers(), "compress": identity}
        with contextlib.suppress(LedgerMoved):
            if decided.outcome != "promoted":
                with registry.changing() as connection:
                    judgement.spend(connection, None)
                return None
            form = _servable(select, compress, scratch / "servable")
            own = {"compress": identity, "quantisation": form, "dataset": "", "status": decided.outcome}
            own |= {"interval": known["evaluate"].interval, "run": known["evaluate"].run}
            _write_answers(evaluate / "answers.parquet", scratch / "answers.parquet")
            version = registry.publish(
                {**facts, **own},
                {name: scratch / name for name in ("servable", "answers.parquet")},
                texts,
                by="gate",
                why=why,
                numbers=numbers,
                also=judgement.spend,
            )
            shutil.rmtree(scratch)
            return version, judgement.counting(version)


def _servable(select: Path, compress: Path, out: Path) -> str:
    """Write the base model in the form that was measured, and return its name."""
    from llmops.model.gguf.worker import is_gguf
    from llmops.model.gguf.write import as_gguf

    shutil.rmtree(out, ignore_errors=True)
    base = Path(base_path(select))
    if is_gguf(compress / "servable") and as_gguf(base, out) == out:
        return "f16"
    shutil.copytree(base, out)
    return "f16" if is_gguf(out) else "bf16"


def _write_answers(answers: Path, out: Path) -> None:
    table = pq.read_table(answers, filters=[("model", "in", [BASE, CLOSED_BOOK])])
    names = ["candidate" if name == BASE else BASE for name in table["model"].to_pylist()]
    write_table(out, table.set_column(table.column_names.index("model"), "model", [names]))
