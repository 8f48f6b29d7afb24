"""Answer the frozen test with base, champion and candidate, greedily, and measure each answer.

The candidate is the servable, the folder that serving loads. The base is the untuned model, unquantised. With
`grounding.enabled` and an index with passages, the models answer with documents, as serving does, and the gate judges
this whole system. `evaluate.task` chooses the metrics (see `tasks`). The same run on the same machine, with as many
threads, writes the same files bit for bit.

    python -m llmops run evaluate
"""

import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from llmops.config import Collect, Evaluate, Grounding, Serving
from llmops.config.model import TaskName
from llmops.data.features.examples import read_examples
from llmops.data.retrieval.grounding import compute_window, is_fixed_refusal
from llmops.frame.artifacts import get_ref, is_skipped, read_record, write_json
from llmops.frame.errors import ArtifactError
from llmops.frame.records import CLOSED_BOOK, Example, get_base_path, write_table
from llmops.frame.statistics import bootstrap
from llmops.model.base.shape import choose_answer_mode, measure_shape, read_stored_config
from llmops.model.evaluate import page
from llmops.model.evaluate.retrieval import RIGHTLY_REFUSED, WRONGLY_REFUSED, GroundedTest, ground_test
from llmops.model.evaluate.slices import make_slices
from llmops.model.gguf.worker import is_gguf
from llmops.model.gguf.write import convert_to_gguf
from llmops.model.scoring.answers import QuestionSet, ScoredAnswers, score_answers, use_deterministic_kernels
from llmops.model.scoring.groundedness import measure_groundedness
from llmops.model.scoring.tasks import TASKS, Columns, find_topic

log = logging.getLogger(__name__)

_NO_GROUNDING, _DEFAULT_SERVING, _DEFAULT_COLLECT = Grounding(), Serving(), Collect()


def run(
    config: Evaluate,
    *,
    annotate: Path,
    select: Path,
    compress: Path,
    out: Path,
    champion: Path | None = None,
    index: Path | None = None,
    grounding: Grounding = _NO_GROUNDING,
    serving: Serving = _DEFAULT_SERVING,
    collect: Collect = _DEFAULT_COLLECT,
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
    base, candidate, scratch = Path(get_base_path(select)), compress / "servable", out / "base"
    untrained = is_skipped(compress)
    # The same engine for both, so that they differ only by the model.
    served = candidate if untrained else convert_to_gguf(base, scratch) if is_gguf(candidate) else base
    folders = {"base": served, "candidate": candidate}
    if champion:
        folders["champion"] = champion / "servable"
        if not folders["champion"].is_dir():
            raise ArtifactError(
                f"{champion.name}, which this candidate is compared with, has no model at {folders['champion']} any "
                "more; put it back from a backup, or promote another version."
            )
    grounded_test, closed_book, answering = None, QuestionSet(items), grounding
    if index and read_record(index).metrics.get("passages"):
        answering = grounding.with_answer(choose_answer_mode(measure_shape(read_stored_config(base)).parameters))
        system_prompt = str(read_record(compress).config.get("system_prompt", ""))
        window = compute_window(serving.max_context, system_prompt)
        grounded_test = ground_test(index, annotate, items, answering, collect, window, config.max_new_tokens)
    question_sets = {name: {name: grounded_test.system if grounded_test else closed_book} for name in folders}
    if grounded_test:
        other = "candidate_by_model" if answering.answer == "quote" else "candidate_quoted"
        question_sets["candidate"] |= {
            "candidate_right_passage": grounded_test.right_passages,
            "candidate_closed_book": closed_book,
        }
        question_sets["candidate"] |= {other: grounded_test.other_mode}
        question_sets["base"] |= {} if champion else {CLOSED_BOOK: closed_book}
        if champion and grounding.with_answer(_read_answer_mode(champion)) != answering:
            question_sets["champion"] = {"champion": grounded_test.other_mode}
    if untrained:
        question_sets["base"] |= question_sets.pop("candidate")
    scored: dict[str, ScoredAnswers] = {}
    with use_deterministic_kernels():
        for name, named_sets in question_sets.items():
            scored |= zip(named_sets, score_answers(folders[name], list(named_sets.values()), config), strict=True)
            log.info("%s: answered %d items", name, len(items))
    shutil.rmtree(scratch, ignore_errors=True)
    if grounded_test:
        for name in folders:
            grounded_test.columns.update(_find_refusals(name, scored[name].answers, grounded_test))
            grounded_test.columns[f"grounded_{name}"] = _find_grounded(scored[name].answers, grounded_test)
    topics = [find_topic(item, config.task) for item in items]
    test_figures = compute_figures(scored, topics, config, with_test_metrics=True)
    beside = {name: test_figures["models"].pop(name) for name in scored if name not in folders}
    document = {
        "items": len(items),
        "topics": len(set(topics)),
        "task": config.task,
        "primary": TASKS[config.task].primary,
        "confidence": config.confidence,
        "resamples": config.bootstrap,
        "opponent": "champion" if champion else "base",
        **test_figures,
        "slices": _summarize_slices({name: scored[name] for name in folders}, items, config, grounded_test),
    }
    retrieval = _summarize_retrieval(grounded_test, topics, config) if grounded_test else {}
    if grounded_test and index:
        missing = sum(value is not None for value in grounded_test.columns[RIGHTLY_REFUSED])
        looked_up = missing + sum(value is not None for value in grounded_test.columns[WRONGLY_REFUSED])
        counts = {"looked_up": looked_up, "not_indexed": missing}
        document |= {
            "beside": beside,
            "retrieval": {"index": get_ref(index), "answer": answering.answer, **counts, "figures": retrieval},
        }
    write_table(out / "answers.parquet", _make_table(scored, items, config.task))
    write_json(out / "evaluation.json", document)
    page.write_page(out, config.worst)
    return {"items": len(items)} | {
        f"{name}_{metric}": figure["mean"]
        for name, found in (*test_figures["models"].items(), ("retrieval", retrieval))
        for metric, figure in found.items()
    }


def _read_answer_mode(version: Path) -> str:
    """Return the mode in which a version was judged, see `Grounding.with_answer`."""
    evaluation = json.loads((version / "evaluation.json").read_text(encoding="utf-8"))
    return str(evaluation.get("retrieval", {}).get("answer", ""))


def _find_refusals(name: str, answers: Sequence[str], grounded_test: GroundedTest) -> Columns:
    """Return 1 for each answer that is a refusal, by the retrieval or by the model, else 0; None: no lookup."""
    return {
        f"{kind}_{name}": [
            None if value is None else float(is_fixed_refusal(answer))
            for value, answer in zip(grounded_test.columns[kind], answers, strict=True)
        ]
        for kind in (WRONGLY_REFUSED, RIGHTLY_REFUSED)
    }


def _find_grounded(answers: Sequence[str], grounded_test: GroundedTest) -> list[float | None]:
    """Return 1 for each answer that its passages support, else 0; None: no passages, or the answer says nothing."""
    has_passages = [
        0 in (grounded_test.columns[WRONGLY_REFUSED][n], grounded_test.columns[RIGHTLY_REFUSED][n])
        for n in range(len(answers))
    ]
    results = [
        measure_groundedness(answer, [item.context]) if read else None
        for answer, item, read in zip(answers, grounded_test.system.items, has_passages, strict=True)
    ]
    return [None if one is None else float(one.grounded) for one in results]


def _summarize_retrieval(
    grounded_test: GroundedTest, topics: Sequence[str], config: Evaluate, rows: Sequence[int] | None = None
) -> dict[str, Any]:
    """Return the figures of the retrieval with their intervals. Figures without a value are left out."""
    chosen = range(len(topics)) if rows is None else rows
    measures = {
        name: bootstrap.make_mean(column)
        for name, column in grounded_test.columns.items()
        if any(column[row] is not None for row in chosen)
    }
    drawn = bootstrap.resample(measures, topics, config.bootstrap, config.seed, rows) if measures else {}
    return {name: bootstrap.summarize(values, config.confidence) for name, values in drawn.items()}


def compute_figures(
    models: Mapping[str, ScoredAnswers],
    topics: Sequence[str],
    config: Evaluate,
    rows: Sequence[int] | None = None,
    with_test_metrics: bool = False,
) -> dict[str, Any]:
    """Return every metric of every model with its interval, and the candidate's difference from its opponent.

    They are of the given `rows`, by default of all items. `with_test_metrics` adds the metrics that only the whole
    test has.

    Returns:
        `models`: model → metric → interval; `differences`: metric → interval of candidate minus opponent, paired. A
        metric without a value for a model is left out.
    """
    measures = {
        (name, metric): measure
        for name, scored in models.items()
        for metric, measure in {**scored.item_metrics, **(scored.test_metrics if with_test_metrics else {})}.items()
    }
    drawn = bootstrap.resample(measures, topics, config.bootstrap, config.seed, rows)
    names = list(dict.fromkeys(metric for _, metric in measures))
    finite_metrics = [
        metric
        for metric in names
        if all((name, metric) in drawn and np.isfinite(drawn[name, metric][0]) for name in models)
    ]
    opponent = "champion" if "champion" in models else "base"
    return {
        "models": {
            name: {metric: bootstrap.summarize(drawn[name, metric], config.confidence) for metric in finite_metrics}
            for name in models
        },
        "differences": {
            metric: bootstrap.summarize(drawn["candidate", metric] - drawn[opponent, metric], config.confidence)
            for metric in finite_metrics
        },
    }


def _summarize_slices(
    models: Mapping[str, ScoredAnswers], items: Sequence[Example], config: Evaluate, grounded_test: GroundedTest | None
) -> dict[str, list[dict[str, Any]]]:
    topics = [find_topic(item, config.task) for item in items]
    if config.task == "classification":
        items = [replace(item, group=item.answer) for item in items]
    return {
        kind: [
            {
                "name": name,
                "items": len(rows),
                "topics": len({topics[row] for row in rows}),
                **compute_figures(models, topics, config, rows),
                **({"retrieval": _summarize_retrieval(grounded_test, topics, config, rows)} if grounded_test else {}),
            }
            for name, rows in parts.items()
        ]
        for kind, parts in make_slices(items, config.slice_items).items()
    }


def _make_table(models: Mapping[str, ScoredAnswers], items: Sequence[Example], task: TaskName) -> pa.Table:
    """Return a table with a row per model and item. The release gate can decide on each column that is no text."""
    rows = [
        {
            "id": item.id,
            "question": item.question,
            "context": item.context,
            "reference": item.answer,
            "source": item.source,
            "group": find_topic(item, task),
            "answer": scored.answers[n],
            **{metric: values[n] for metric, values in scored.columns.items()},
            "model": name,
        }
        for name, scored in models.items()
        for n, item in enumerate(items)
    ]
    return pa.Table.from_pylist(rows)
