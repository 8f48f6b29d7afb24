"""Answer the frozen test with base, champion and candidate, greedily, and measure each answer.

What is evaluated is the servable: the very folder that serving loads. The base is the untuned model, unquantised.
With `grounding.enabled` and an index with passages, the models answer with documents, as serving does: this whole
system is what the gate judges. `evaluate.task` says what is measured (see `tasks`). The same run on the same machine,
with as many threads, writes the same files bit for bit.

    python -m llmops run evaluate
"""

import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from llmops.config import Collect, Evaluate, Grounding, Serving
from llmops.data.features.examples import read_examples
from llmops.data.retrieval.grounds import refuses
from llmops.frame.artifacts import is_skipped, read_record, ref, write_json
from llmops.frame.errors import ArtifactError
from llmops.frame.records import CLOSED_BOOK, Example, base_path, write_table
from llmops.frame.statistics import intervals
from llmops.model.evaluate import page
from llmops.model.evaluate.documents import RIGHT, WRONG, GroundedTest, ground_test
from llmops.model.evaluate.slices import slices
from llmops.model.gguf.worker import is_gguf
from llmops.model.gguf.write import convert_to_gguf
from llmops.model.scoring.answered import Answered, Asked, answer_test, deterministic
from llmops.model.scoring.grounded import groundedness
from llmops.model.scoring.tasks import TASKS, Columns

log = logging.getLogger(__name__)

_UNGROUNDED, _SERVING, _UNKNOWN = Grounding(), Serving(), Collect()


def run(
    config: Evaluate,
    *,
    annotate: Path,
    select: Path,
    compress: Path,
    out: Path,
    champion: Path | None = None,
    index: Path | None = None,
    grounding: Grounding = _UNGROUNDED,
    serving: Serving = _SERVING,
    collect: Collect = _UNKNOWN,
) -> dict[str, Any]:
    """Write `answers.parquet` (a row per item and model), `evaluation.json` (figures with intervals) and `report.html`.

    If nothing was trained, the candidate is the base. Where an index with passages is given, the candidate, and the
    base if it is the opponent, are also measured without passages, and the candidate with the right ones, and with
    quotes in place of its answers, or the other way round.

    Raises:
        ArtifactError: if the test is empty, or the champion's model is gone.
    """
    items = read_examples(annotate / "test.parquet")
    if not items:
        raise ArtifactError(f"{annotate / 'test.parquet'} has no item to ask; look at `annotate.test`.")
    base, candidate, scratch = Path(base_path(select)), compress / "servable", out / "base"
    untrained = is_skipped(compress)
    # Both by the same engine: their difference is to be that of the models.
    served = candidate if untrained else convert_to_gguf(base, scratch) if is_gguf(candidate) else base
    folders = {"base": served, "candidate": candidate}
    if champion:
        folders["champion"] = champion / "servable"
        if not folders["champion"].is_dir():
            raise ArtifactError(
                f"{champion.name}, which this candidate is compared with, has no model at {folders['champion']} any "
                "more; put it back from a backup, or promote another version."
            )
    grounds, closed = None, Asked(items)
    if index and read_record(index).metrics.get("passages"):
        window, most = serving.max_context, config.max_new_tokens
        grounds = ground_test(index, annotate, items, grounding, collect, window, most)
    asked = {name: {name: grounds.system if grounds else closed} for name in folders}
    if grounds:
        other = "candidate_by_model" if grounding.answer == "quote" else "candidate_quoted"
        asked["candidate"] |= {"candidate_right_passage": grounds.right, "candidate_closed_book": closed}
        asked["candidate"] |= {other: grounds.otherwise}
        asked["base"] |= {} if champion else {CLOSED_BOOK: closed}
    if untrained:
        asked["base"] |= asked.pop("candidate")
    answered: dict[str, Answered] = {}
    with deterministic():
        for name, ways in asked.items():
            answered |= zip(ways, answer_test(folders[name], list(ways.values()), config), strict=True)
            log.info("%s: answered %d items", name, len(items))
    shutil.rmtree(scratch, ignore_errors=True)
    if grounds:
        for name in folders:
            grounds.columns.update(_refused(name, answered[name].answers, grounds))
            grounds.columns[f"grounded_{name}"] = _grounded(answered[name].answers, grounds)
    topics = [item.group for item in items]
    whole = figures(answered, topics, config, whole=True)
    beside = {name: whole["models"].pop(name) for name in answered if name not in folders}
    document = {
        "items": len(items),
        "topics": len(set(topics)),
        "task": config.task,
        "primary": TASKS[config.task].primary,
        "confidence": config.confidence,
        "resamples": config.bootstrap,
        "opponent": "champion" if champion else "base",
        **whole,
        "slices": _slices({name: answered[name] for name in folders}, items, config, grounds),
    }
    retrieval = _retrieval(grounds, topics, config) if grounds else {}
    if grounds and index:
        missing = sum(value is not None for value in grounds.columns[RIGHT])
        looked_up = missing + sum(value is not None for value in grounds.columns[WRONG])
        counts = {"looked_up": looked_up, "not_indexed": missing}
        document |= {"beside": beside, "retrieval": {"index": ref(index), **counts, "figures": retrieval}}
    write_table(out / "answers.parquet", _table(answered, items))
    write_json(out / "evaluation.json", document)
    page.write(out, config.worst)
    return {"items": len(items)} | {
        f"{name}_{metric}": figure["mean"]
        for name, found in (*whole["models"].items(), ("retrieval", retrieval))
        for metric, figure in found.items()
    }


def _refused(name: str, answers: Sequence[str], grounds: GroundedTest) -> Columns:
    """Return which answers are refusals, be it by the retrieval or by the model."""
    return {
        f"{kind}_{name}": [
            None if value is None else float(refuses(answer))
            for value, answer in zip(grounds.columns[kind], answers, strict=True)
        ]
        for kind in (WRONG, RIGHT)
    }


def _grounded(answers: Sequence[str], grounds: GroundedTest) -> list[float | None]:
    """Return which answers rest on the passages that were given; None: none were, or the answer says nothing."""
    given = [0 in (grounds.columns[WRONG][n], grounds.columns[RIGHT][n]) for n in range(len(answers))]
    rested = [
        groundedness(answer, [item.context]) if read else None
        for answer, item, read in zip(answers, grounds.system.items, given, strict=True)
    ]
    return [None if one is None else float(one.grounded) for one in rested]


def _retrieval(
    grounds: GroundedTest, topics: Sequence[str], config: Evaluate, rows: Sequence[int] | None = None
) -> dict[str, Any]:
    """Return the retrieval's figures with their intervals; one that no item has a value of is left out."""
    chosen = range(len(topics)) if rows is None else rows
    measures = {
        name: intervals.mean(column)
        for name, column in grounds.columns.items()
        if any(column[row] is not None for row in chosen)
    }
    drawn = intervals.resample(measures, topics, config.bootstrap, config.seed, rows) if measures else {}
    return {name: intervals.summarize(values, config.confidence) for name, values in drawn.items()}


def figures(
    models: Mapping[str, Answered],
    topics: Sequence[str],
    config: Evaluate,
    rows: Sequence[int] | None = None,
    whole: bool = False,
) -> dict[str, Any]:
    """Return every metric of every model with its interval, and the candidate's difference from its opponent.

    They are of the given `rows`, by default of all items. `whole` adds the metrics that only the whole test has.

    Returns:
        `models`: model → metric → interval; `differences`: metric → interval of candidate minus opponent, paired. A
        metric that a model has no value of is left out.
    """
    measures = {
        (name, metric): measure
        for name, answered in models.items()
        for metric, measure in {**answered.items, **(answered.whole if whole else {})}.items()
    }
    drawn = intervals.resample(measures, topics, config.bootstrap, config.seed, rows)
    names = list(dict.fromkeys(metric for _, metric in measures))
    kept = [metric for metric in names if all(np.isfinite(drawn[name, metric][0]) for name in models)]
    opponent = "champion" if "champion" in models else "base"
    return {
        "models": {
            name: {metric: intervals.summarize(drawn[name, metric], config.confidence) for metric in kept}
            for name in models
        },
        "differences": {
            metric: intervals.summarize(drawn["candidate", metric] - drawn[opponent, metric], config.confidence)
            for metric in kept
        },
    }


def _slices(
    models: Mapping[str, Answered], items: Sequence[Example], config: Evaluate, grounds: GroundedTest | None
) -> dict[str, list[dict[str, Any]]]:
    topics = [item.group for item in items]
    return {
        kind: [
            {
                "name": name,
                "items": len(rows),
                "topics": len({topics[row] for row in rows}),
                **figures(models, topics, config, rows),
                **({"retrieval": _retrieval(grounds, topics, config, rows)} if grounds else {}),
            }
            for name, rows in parts.items()
        ]
        for kind, parts in slices(items, config.slice_items).items()
    }


def _table(models: Mapping[str, Answered], items: Sequence[Example]) -> pa.Table:
    """Return a table with a row per model and item. The release gate can decide on each column that is no text."""
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
