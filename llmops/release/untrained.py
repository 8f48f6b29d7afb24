"""The base model with documents: judged if the gate has rejected the first candidate, or if nothing was trained.

It becomes champion if it answers the frozen test better with the documents than without, by the rules of the gate and
at the level that the test has left. Its `answers.parquet` and `evaluation.json` call it the candidate, and its answers
without documents the base, so that they have the same form as those of every version. If nothing was trained and there
is a champion, the champion is its opponent, as for any candidate.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from llmops.config import Release
from llmops.frame.artifacts import Record, is_done, is_removed, is_skipped, read_record
from llmops.frame.records import CLOSED_BOOK, get_base_path, write_table
from llmops.model.base.hashes import copy_model
from llmops.model.gguf.worker import is_gguf
from llmops.release import ledger
from llmops.release.gate import Scores
from llmops.release.judgement import Bundle, GateCandidate
from llmops.release.registry.registry import Registry
from llmops.release.registry.version import Version
from llmops.release.registry.view import BASE

_OF_CANDIDATE = ("annotate", "features", "tune", "train", "compress", "govern")  #: stages


def make_untrained(
    rejected: Bundle, scores: tuple[Scores, Scores], config: Release, selection: Mapping[str, Any],
    governance: Mapping[str, Any], *, select: Path, compress: Path, evaluate: Path, out: Path,
) -> Bundle:  # fmt: skip
    """Return the base with documents in place of a candidate.

    Args:
        rejected: the candidate, which answered the same test; the base itself if nothing was trained.
        scores: of the base with documents and without.
        config: of the gate.
        selection: content of `selection.json`.
        governance: content of `base.json`.
        select: the artifact with the base model.
        compress: the artifact whose engine the base was measured with.
        evaluate: the artifact with the answers.
        out: folder for files of the version.
    """
    known, evaluation = rejected.records, rejected.evaluation
    identity, alone = ledger.hash_untrained_identity(known, config, selection), is_skipped(compress)
    made_from, base = (compress.name, compress / "servable") if alone else (identity, Path(get_base_path(select)))
    gguf = _was_measured_as_gguf(base, compress)
    facts = {"compress": made_from, "quantisation": "f16" if gguf else "bf16", "dataset": ""}
    facts |= {"interval": known["evaluate"].interval, "run": known["evaluate"].run}
    facts |= {} if alone else {"system_prompt": ""}
    models = {"candidate": evaluation["models"][BASE], BASE: evaluation["beside"][CLOSED_BOOK]}
    kept = {key: value for key, value in evaluation.items() if key not in ("slices", "differences", "beside")}
    return Bundle(
        candidate=replace(
            rejected.candidate,
            scores=scores[0],
            opponent_scores=scores[1],
            compress=made_from,
            identity=identity,
            closed_book=True,
        ),
        facts={**rejected.facts, **facts},
        trees=lambda: _write_trees(base, gguf, evaluate / "answers.parquet", out),
        records=_drop_training(known),
        evaluation={**kept, "models": models},
        governance=governance,
    )


def make_untrained_challenger(base: Bundle, *, compress: Path, evaluate: Path) -> Bundle:
    """Return the base with documents as a candidate against a champion, if nothing was trained."""
    trees = {"servable": compress / "servable", "answers.parquet": evaluate / "answers.parquet"}
    facts = {**base.facts, "dataset": ""}
    return replace(base, facts=facts, trees=lambda: trees, records=_drop_training(base.records))


def find_decided(registry: Registry, candidate: GateCandidate, compress: Path) -> Version | None:
    """Return the version whose decision stands if nothing was trained; None if the base has to be judged.

    Other documents make another test, and so another compress artifact of the same base. Its version is the champion,
    or one that was judged against the champion by the same settings and code.
    """
    if champion := registry.champion():
        made_from = compress.parent / champion.compress  # no artifact, if it was released beside a trained model
        is_known = is_done(made_from) or is_removed(made_from)
        if is_known and read_record(made_from).content == read_record(compress).content:
            return champion
    if candidate.opponent_erased:
        return None
    with registry.database.read() as connection:
        judged = {a.version for a in ledger.read(connection, registry.name) if a.identity == candidate.identity}
    found = (v for v in registry.versions() if v.name in judged and v.compared_with == candidate.opponent)
    return next(found, None)


def _drop_training(known: Mapping[str, Record]) -> dict[str, Record]:
    return {stage: record for stage, record in known.items() if stage not in _OF_CANDIDATE}


def _was_measured_as_gguf(base: Path, compress: Path) -> bool:
    if not is_gguf(compress / "servable"):
        return False
    from llmops.model.gguf.write import explain_unsupported

    return is_gguf(base) or not explain_unsupported(base)


def _write_trees(base: Path, gguf: bool, answers: Path, out: Path) -> dict[str, Path]:
    """Write the model, in the form that was measured, and its `answers.parquet`."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    trees = {name: out / name for name in ("servable", "answers.parquet")}
    if gguf and not is_gguf(base):
        from llmops.model.gguf.write import write_gguf_folder

        write_gguf_folder(base, trees["servable"], "f16")
    else:
        copy_model(base, trees["servable"])
    table = pq.read_table(answers, filters=[("model", "in", [BASE, CLOSED_BOOK])])
    names = ["candidate" if name == BASE else BASE for name in table["model"].to_pylist()]
    write_table(trees["answers.parquet"], table.set_column(table.column_names.index("model"), "model", [names]))
    return trees
