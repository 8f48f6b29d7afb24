"""The base model with documents, which is judged if the gate has rejected the first candidate.

It becomes champion if it answers the frozen test better with the documents than without, by the rules of the gate and
at the level that the test has left. Its `answers.parquet` and `evaluation.json` call it the candidate, and its answers
without documents the base, so that they have the same form as those of every version.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from llmops.config import Release
from llmops.frame.records import CLOSED_BOOK, base_path, write_table
from llmops.model.base.hashes import model_files
from llmops.model.gguf.worker import is_gguf
from llmops.release import ledger
from llmops.release.gate import Scores
from llmops.release.judgement import Bundle
from llmops.release.registry.view import BASE

_OF_CANDIDATE = ("annotate", "features", "tune", "train", "compress", "govern")  #: stages


def make_untrained(
    rejected: Bundle, scores: tuple[Scores, Scores], config: Release, selection: Mapping[str, Any],
    governance: Mapping[str, Any], *, select: Path, compress: Path, evaluate: Path, out: Path,
) -> Bundle:  # fmt: skip
    """Return the base with documents in place of a rejected candidate.

    Args:
        rejected: the candidate, which answered the same test.
        scores: of the base with documents and without.
        config: of the gate.
        selection: content of `selection.json`.
        governance: content of `base.json`.
        select: the artifact with the base model.
        compress: the artifact whose engine the base was measured with.
        evaluate: the artifact with the answers.
        out: folder for files of the version.
    """
    known, evaluation, base = rejected.records, rejected.evaluation, Path(base_path(select))
    gguf = _was_measured_as_gguf(base, compress)
    identity = ledger.hash_untrained_identity(known, config, selection)
    facts = {"compress": identity, "quantisation": "f16" if gguf else "bf16", "dataset": ""}
    facts |= {"interval": known["evaluate"].interval, "run": known["evaluate"].run}
    models = {"candidate": evaluation["models"][BASE], BASE: evaluation["beside"][CLOSED_BOOK]}
    kept = {key: value for key, value in evaluation.items() if key not in ("slices", "differences", "beside")}
    return Bundle(
        candidate=replace(
            rejected.candidate,
            scores=scores[0],
            opponent_scores=scores[1],
            compress=identity,
            identity=identity,
            closed_book=True,
        ),
        facts={**rejected.facts, **facts},
        trees=lambda: _write_trees(base, gguf, evaluate / "answers.parquet", out),
        records={stage: record for stage, record in known.items() if stage not in _OF_CANDIDATE},
        evaluation={**kept, "models": models},
        governance=governance,
    )


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
        from llmops.model.gguf.write import write_folder

        write_folder(base, trees["servable"], "f16")
    else:
        trees["servable"].mkdir()
        for file in (*model_files(base), *base.glob("*.gguf")):
            shutil.copyfile(file, trees["servable"] / file.name)
    table = pq.read_table(answers, filters=[("model", "in", [BASE, CLOSED_BOOK])])
    names = ["candidate" if name == BASE else BASE for name in table["model"].to_pylist()]
    write_table(trees["answers.parquet"], table.set_column(table.column_names.index("model"), "model", [names]))
    return trees
