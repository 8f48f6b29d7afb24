"""What the documents add to answers: the same items asked from memory, with what retrieval finds, and with the passage
that answers; and how good retrieval is.

An item that has a context of its own is asked without it. Answers are scored where the index has a passage that
answers; where it has none, a refusal is right. The gate reads the answers to the whole test, not these.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from llmops.config import Evaluate
from llmops.data.index.ranking import Hit
from llmops.grounding.groundedness import groundedness
from llmops.grounding.retriever import REFUSAL, context_of, said
from llmops.model.evaluate.retrieved import DEPTH, Retrieved
from llmops.model.evaluate.slices import slices
from llmops.model.evaluate.tasks import TASKS, Columns
from llmops.model.scoring.metrics import normalise
from llmops.records import Example
from llmops.statistics import intervals
from llmops.statistics.intervals import Measure

CLOSED, RETRIEVED, RIGHT, QUOTE = "closed", "retrieved", "right", "quote"  #: how items are answered
DEPTHS = (1, 3, 5, DEPTH)

Way = tuple[str, str]  #: model, and how it was asked; the quote is nobody's
Given = list[list[Hit]]  #: passages of each item
Figures = dict[str, Any]


def asked(items: Sequence[Example], found: Sequence[Retrieved]) -> tuple[list[Example], list[list[str]]]:
    """What each model is asked besides the test itself, with its passages: from memory what the test asks with a
    context, and all with what was found, and with the right passage."""
    memory = [replace(item, context="") for item, one in zip(items, found, strict=True) if item.context and one.right]
    told = [
        (replace(item, context=context_of(hits)), [said(hit) for hit in hits])
        for way in (RETRIEVED, RIGHT)
        for item, hits in zip(items, _given(found, way), strict=True)
        if hits
    ]
    return memory + [item for item, _ in told], [[] for _ in memory] + [passages for _, passages in told]


def measure(
    items: Sequence[Example],
    found: Sequence[Retrieved],
    closed: Mapping[str, Sequence[str]],
    grounded: Mapping[str, Sequence[str]],
    elsewhere: Sequence[bool],
    config: Evaluate,
) -> tuple[Figures, pa.Table]:
    """The figures of `grounded` in `evaluation.json`, and a row per item, model and way.

    Args:
        items: that were asked.
        found: of each.
        closed: model → its answer to each item in the test; of one that is not asked so, none.
        grounded: model → its answers to what `asked` returns.
        elsewhere: whether each question of another field was refused.
        config: how answers are scored, and the size of the bootstrap.
    """
    answers = _answers(items, found, closed, grounded)
    columns = {way: _columns(texts, way[1], items, found, config) for way, texts in answers.items()}
    measures = {
        (*way, metric): intervals.mean(values) for way, metrics in columns.items() for metric, values in metrics.items()
    } | {("", "retrieval", name): measured for name, measured in _retrieval(found).items()}
    document: Figures = {
        "items": len(items),
        "answerable": sum(one.right is not None for one in found),
        **_figures(measures, list(answers), items, config, None),
        "slices": [
            {"name": name, "items": len(rows), **_figures(measures, list(answers), items, config, rows)}
            for name, rows in _parts(items, found, config.slice_items).items()
        ],
    }
    document["elsewhere"] = {
        "questions": len(elsewhere),
        "refused": intervals.interval(
            [float(no) for no in elsewhere], config.bootstrap, config.confidence, config.seed
        ),
    }
    return document, _table(answers, columns, items, found)


def told(figures: Figures, primary: str) -> dict[str, float]:
    """The figures that a run tells of, by names: of retrieval, and of each way the primary metric."""
    ways = {
        "_".join(filter(None, (line["model"], line["way"], primary))): line["metrics"][primary]["mean"]
        for line in figures["ways"]
        if primary in line["metrics"]
    }
    return {name: figure["mean"] for name, figure in figures["retrieval"].items()} | ways


def _parts(items: Sequence[Example], found: Sequence[Retrieved], least: int) -> dict[str, list[int]]:
    """The positions of the items by source, and by whether a document asks the very same: then it is easily found."""
    there = [row for row, one in enumerate(found) if one.right]
    by_words = {
        "asked as a document asks it": [row for row in there if found[row].verbatim],
        "asked in other words": [row for row in there if not found[row].verbatim],
    }
    return {
        **{name: rows for name, rows in by_words.items() if len(rows) >= least},
        **slices(items, least)["source"],
    }


def _answers(
    items: Sequence[Example],
    found: Sequence[Retrieved],
    closed: Mapping[str, Sequence[str]],
    grounded: Mapping[str, Sequence[str]],
) -> dict[Way, list[str | None]]:
    """What was answered to each item, in each way; None: it could not be asked so."""
    answers: dict[Way, list[str | None]] = {}
    for name in {**closed, **grounded}:
        left = iter(grounded.get(name, ()))
        memory = [
            None if not one.right else next(left, None) if item.context else text
            for item, one, text in zip(items, found, closed.get(name, [None] * len(items)), strict=True)
        ]
        if name in closed:
            answers[name, CLOSED] = memory
        if name not in grounded:
            continue
        answers[name, RETRIEVED] = [next(left) if one.given else REFUSAL for one in found]
        answers[name, RIGHT] = [next(left) if one.right else None for one in found]
    if any(one.quote for one in found):
        answers["", QUOTE] = [one.quote if one.given else REFUSAL for one in found]
    return answers


def _columns(
    texts: Sequence[str | None], way: str, items: Sequence[Example], found: Sequence[Retrieved], config: Evaluate
) -> Columns:
    """Every metric of the task for each answer that can be right, and of all whether they are grounded in what was
    found, or are refusals."""
    rows = [row for row, text in enumerate(texts) if text is not None and found[row].right]
    given = [str(texts[row]) for row in rows]
    scored, _ = TASKS[config.task].score(given, [items[row].answer for row in rows], config.k)
    columns: Columns = {name: [None] * len(items) for name in (*scored, "groundedness", "grounded", "refused")}
    for name, values in scored.items():
        for row, value in zip(rows, values, strict=True):
            columns[name][row] = value
    told = _given(found, RIGHT if way == RIGHT else RETRIEVED)
    for row, text in enumerate(texts):
        if text is None:
            continue
        refused = normalise(text) == normalise(REFUSAL)
        columns["refused"][row] = float(refused)
        if not refused and (rests := groundedness(text, [said(hit) for hit in told[row]])):
            columns["groundedness"][row], columns["grounded"][row] = rests.share, float(rests.grounded)
    return columns


def _retrieval(found: Sequence[Retrieved]) -> dict[str, Measure]:
    """Recall at some depths and the mean reciprocal rank, of items whose passage is in the index; how many of them are
    refused all the same, and how many of the others."""
    there = [one.right is not None for one in found]

    def over(values: Sequence[float], wanted: bool) -> Measure:
        return intervals.mean([value if known is wanted else None for value, known in zip(values, there, strict=True)])

    refused = [float(not one.given) for one in found]
    return {
        **{f"recall_at_{k}": over([float((one.rank or k + 1) <= k) for one in found], True) for k in DEPTHS},
        "mrr": over([1 / one.rank if one.rank else 0.0 for one in found], True),
        "refused_wrongly": over(refused, True),
        "refused_rightly": over(refused, False),
    }


def _figures(
    measures: Mapping[tuple[str, str, str], Measure],
    ways: Sequence[Way],
    items: Sequence[Example],
    config: Evaluate,
    rows: Sequence[int] | None,
) -> Figures:
    """Every figure with its interval, and how far the candidate with what was found is from every other way."""
    drawn = intervals.sample(measures, [item.group for item in items], config.bootstrap, config.seed, rows)
    known = {key: intervals.summary(v, config.confidence) for key, v in drawn.items() if np.isfinite(v[0])}
    primary = TASKS[config.task].primary
    ours = drawn["candidate", RETRIEVED, primary]
    return {
        "retrieval": {name: figure for (_, way, name), figure in known.items() if way == "retrieval"},
        "ways": [
            {
                "model": model,
                "way": way,
                "metrics": {m: known[model, way, m] for a, b, m in known if (a, b) == (model, way)},
                "ahead": intervals.summary(ours - drawn[model, way, primary], config.confidence)
                if (model, way, primary) in known
                else None,
            }
            for model, way in ways
        ],
    }


def _given(found: Sequence[Retrieved], way: str) -> Given:
    """The passages that a model was told, or could have been."""
    if way == RIGHT:
        return [[Hit(one.right, 1.0, None, None, None)] if one.right else [] for one in found]
    return [[*one.given] for one in found]


def _table(
    answers: Mapping[Way, Sequence[str | None]],
    columns: Mapping[Way, Columns],
    items: Sequence[Example],
    found: Sequence[Retrieved],
) -> pa.Table:
    """`asked`: whether the model was asked so, beside the test itself. Passages are named by their ids alone: what an
    erasure takes out of the index is then nowhere else."""
    rows = []
    for (model, way), texts in answers.items():
        told = _given(found, way)
        for n, item in enumerate(items):
            if (text := texts[n]) is None:
                continue
            rows.append(
                {
                    "id": item.id,
                    "question": item.question,
                    "reference": item.answer,
                    "source": item.source,
                    "group": item.group,
                    "model": model,
                    "way": way,
                    "answer": text,
                    "passages": [] if way == CLOSED else [hit.passage.id for hit in told[n]],
                    "rank": found[n].rank,
                    "asked": bool(item.context) if way == CLOSED else way in (RETRIEVED, RIGHT) and bool(told[n]),
                    **{metric: values[n] for metric, values in columns[model, way].items()},
                }
            )
    return pa.Table.from_pylist(rows)
