"""Answer the frozen test with base, champion and candidate, greedily, and measure each answer.

What is evaluated is the servable: the very folder that serving loads. The base is the untuned model, unquantised, and
answers by the same library as the candidate.
`evaluate.task` says what is measured (see `tasks`). The same run on the same machine, with as many threads, writes the
same files bit for bit. Who has answered the same test before, on such a machine, is not asked again (see `kept`).

With `grounding.enabled`, some of the items are asked with passages of the index, too (see `grounded`). Where nothing
was trained, what is judged is what the documents add: candidate and champion answer the test as they are served (see
`served`), the base from memory. So it is where the champion was not trained, or quotes: a candidate has to answer
better than that does.

    python -m llmops run evaluate
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from llmops.artifacts import write_json
from llmops.config import Evaluate, Grounding, Train
from llmops.errors import ArtifactError
from llmops.features.examples import read_examples
from llmops.model.evaluate import grounded, kept, page, served
from llmops.model.evaluate.answered import Answered, ask, deterministic, measured
from llmops.model.evaluate.retrieved import chosen, refused_elsewhere, retrieve
from llmops.model.evaluate.slices import slices
from llmops.model.evaluate.tasks import TASKS
from llmops.model.gguf.pipeline import is_gguf
from llmops.model.gguf.write import supported, write_folder
from llmops.records import Example, base_path, write_table
from llmops.registry.version import QUOTE, read_version
from llmops.statistics import intervals

log = logging.getLogger(__name__)

_BASE: Final = "base"  # folder of the base while it is asked
_FORM: Final = "f16"
VALIDATED = 40  #: validation items that decide how a version answers from documents, if `grounded_items` says nothing
_NOT_GROUNDED, _TRAINED = Grounding(), Train()


def run(
    config: Evaluate,
    *,
    annotate: Path,
    select: Path,
    compress: Path,
    index: Path,
    out: Path,
    grounding: Grounding = _NOT_GROUNDED,
    train: Train = _TRAINED,
    champion: Path | None = None,
    before: Sequence[Path] = (),
) -> dict[str, Any]:
    """Write `answers.parquet` (a row per item and model), `evaluation.json` (figures with intervals), `report.html` and
    `asked.json`, which tells whose answers are from one of the artifacts `before`; with `grounding.enabled`, also
    `grounded.parquet` and `asked_grounded.json`, which are the same of answers with passages.

    Raises:
        ArtifactError: if the test is empty, or the champion's model is gone.
    """
    items = read_examples(annotate / "test.parquet")
    if not items:
        raise ArtifactError(f"{annotate / 'test.parquet'} has no item to ask; look at `annotate.test`.")
    folders = {"base": Path(base_path(select)), "candidate": compress / "servable"}
    if champion:
        folders["champion"] = champion / "servable"
        if not folders["champion"].is_dir():
            raise ArtifactError(
                f"{champion.name}, which this candidate is compared with, has no model at {folders['champion']} any "
                "more; put it back from a backup, or promote another version."
            )
    rewritten = is_gguf(folders["candidate"]) and not supported(folders["base"])
    asking = _Asking(folders, rewritten, config, before, out)
    opponent = read_version(champion) if champion and grounding.enabled else None
    as_served = grounding.enabled and (
        not train.enabled
        or not pq.read_metadata(annotate / "train.parquet").num_rows
        or (opponent is not None and (opponent.answers == QUOTE or not opponent.adapter.is_dir()))
    )
    grounded_items = chosen(items, config.grounded_items) if grounding.enabled else []
    asked = list(items) if as_served else grounded_items
    retrieved = dict(zip((item.id for item in asked), retrieve(index, grounding, asked) if asked else (), strict=True))
    found = [retrieved[item.id] for item in grounded_items]
    way: dict[str, Any] = {}
    # As they are served, the base tells from memory, and the others with passages.
    remembering = ["base"] if as_served else list(folders)
    told = [name for name in folders if not as_served or name != "base"]
    with deterministic():
        said, taken = asking.answers("answers", remembering, items)
        from_memory = {name: answers for name, (answers, _) in said.items()}
        reading, _ = asking.answers("grounded", told, *grounded.asked(grounded_items, found)) if found else ({}, {})
        if as_served:
            some = chosen(read_examples(annotate / "validation.parquet"), config.grounded_items or VALIDATED)
            way = served.choose(folders["candidate"], some, retrieve(index, grounding, some), config)
            ways = {"candidate": way["answers"]} | ({"champion": opponent.answers} if opponent else {})
            every = [retrieved[item.id] for item in items]
            for name, its in ways.items():
                said[name] = served.answers(folders[name], its, items, every, config), []
    models = {name: measured(answers, items, config) for name, answers in said.items()}
    whole = figures(models, [item.group for item in items], config, whole=True)
    document: dict[str, Any] = {
        "items": len(items),
        "topics": len({item.group for item in items}),
        "task": config.task,
        "primary": TASKS[config.task].primary,
        "confidence": config.confidence,
        "resamples": config.bootstrap,
        "opponent": "champion" if champion else "base",
        **({"served": way} if way else {}),
        **whole,
        "slices": _slices(models, items, config),
    }
    metrics = {"items": len(items), "kept": len(taken)} | {
        f"{name}_{metric}": figure["mean"]
        for name, measures in whole["models"].items()
        for metric, figure in measures.items()
    }
    if found:
        rows = {item.id: row for row, item in enumerate(items)}
        closed = {name: [texts[rows[item.id]] for item in grounded_items] for name, texts in from_memory.items()}
        texts = {name: answers for name, (answers, _) in reading.items()}
        elsewhere = refused_elsewhere(index, grounding)
        document["grounded"], table = grounded.measure(grounded_items, found, closed, texts, elsewhere, config)
        metrics |= grounded.told(document["grounded"], document["primary"])
        write_table(out / "grounded.parquet", table)
    shutil.rmtree(out / _BASE, ignore_errors=True)
    write_table(out / "answers.parquet", _table(models, items))
    write_json(out / "evaluation.json", document)
    page.write(out, config.worst)
    return metrics


@dataclass(frozen=True, slots=True)
class _Asking:
    """Who is asked, and how."""

    folders: Mapping[str, Path]  #: of each model
    rewritten: bool  #: the base is put into a GGUF file to be asked
    config: Evaluate
    before: Sequence[Path]
    out: Path

    def answers(
        self,
        table: kept.Table,
        names: Sequence[str],
        items: Sequence[Example],
        passages: Sequence[Sequence[str]] | None = None,
    ) -> tuple[dict[str, kept.Answers], dict[str, Path]]:
        """The answers of models to items, see `ask`, and the artifacts of those that were given before."""
        digests = {name: kept.digest(self.folders[name], self._form(name), items, self.config) for name in names}
        said: dict[str, kept.Answers] = {}  # by digest: the candidate may be the champion
        taken: dict[str, Path] = {}
        for name in names:
            if known := kept.find(table, name, digests[name], items, self.before):
                said[digests[name]], taken[name] = known
                log.info("%s: has answered the same %d items before, in %s", name, len(items), taken[name])
            elif digests[name] not in said:
                said[digests[name]] = ask(self._asked(name), items, self.config, passages)
                log.info("%s: answered %d items", name, len(items))
        kept.note(self.out, table, digests, taken)
        return {name: said[digest] for name, digest in digests.items()}, taken

    def _form(self, name: str) -> str:
        """The form that a model is put into to be asked; empty: it is asked as it is."""
        return _FORM if name == "base" and self.rewritten else ""

    def _asked(self, name: str) -> Path:
        """The folder that is asked; the base as a GGUF file is made for it, below `out`."""
        if not self._form(name):
            return self.folders[name]
        if not (self.out / _BASE).exists():
            write_folder(self.folders[name], self.out / _BASE, _FORM)
        return self.out / _BASE


def figures(
    models: Mapping[str, Answered],
    topics: Sequence[str],
    config: Evaluate,
    rows: Sequence[int] | None = None,
    whole: bool = False,
) -> dict[str, Any]:
    """Every metric of every model with its interval, and how far the candidate is from its opponent.

    Args:
        models: their answers to the same items; the candidate's among them.
        topics: of each item.
        config: the size of the bootstrap.
        rows: only these items.
        whole: also the metrics of the whole test only.

    Returns:
        `models`: model → metric → interval; `differences`: metric → interval of candidate minus opponent, paired. A
        metric that a model has no value of is left out, as the likelihood of references is where answers are quoted.
    """
    measures = {
        (name, metric): measure
        for name, answered in models.items()
        for metric, measure in {**answered.items, **(answered.whole if whole else {})}.items()
    }
    drawn = intervals.sample(measures, topics, config.bootstrap, config.seed, rows)
    names = list(dict.fromkeys(metric for _, metric in measures))
    known = {key for key, values in drawn.items() if np.isfinite(values[0])}
    kept = [metric for metric in names if all((name, metric) in known for name in models)]
    opponent = "champion" if "champion" in models else "base"
    return {
        "models": {
            name: {metric: intervals.summary(drawn[name, metric], config.confidence) for metric in kept}
            for name in models
        },
        "differences": {
            metric: intervals.summary(drawn["candidate", metric] - drawn[opponent, metric], config.confidence)
            for metric in kept
        },
    }


def _slices(
    models: Mapping[str, Answered], items: Sequence[Example], config: Evaluate
) -> dict[str, list[dict[str, Any]]]:
    topics = [item.group for item in items]
    return {
        kind: [
            {
                "name": name,
                "items": len(rows),
                "topics": len({topics[row] for row in rows}),
                **figures(models, topics, config, rows),
            }
            for name, rows in parts.items()
        ]
        for kind, parts in slices(items, config.slice_items).items()
    }


def _table(models: Mapping[str, Answered], items: Sequence[Example]) -> pa.Table:
    """A row per model and item. Every column that is no text is a metric: the release gate can decide on it."""
    rows = [
        {
            "id": item.id,
            "question": item.question,
            "context": item.context,
            "reference": item.answer,
            "source": item.source,
            "group": item.group,
            "answer": answered.answers[n],
            **{metric: values[n] for metric, values in answered.columns.items()},
            "model": name,
        }
        for name, answered in models.items()
        for n, item in enumerate(items)
    ]
    return pa.Table.from_pylist(rows)
