"""What a model answers to the items of a test, through the code that serves it, and how good that is."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from llmops.config import Evaluate
from llmops.grounding.context import fit, joined
from llmops.model.base.answering import answer, has_room, open_model
from llmops.model.evaluate.kept import Answers
from llmops.model.evaluate.tasks import TASKS, Columns
from llmops.model.scoring.likelihood import perplexity, reference_tokens
from llmops.records import Example
from llmops.statistics import intervals
from llmops.statistics.intervals import Measure


@dataclass(frozen=True, slots=True)
class Answered:
    """What one model answered, and how good that is."""

    answers: list[str]
    columns: Columns  #: metric → one value per item
    items: dict[str, Measure]  #: metrics of any part of the test
    whole: dict[str, Measure]  #: metrics of the whole test only


def answer_test(folder: Path, items: Sequence[Example], config: Evaluate) -> Answered:
    """Load a servable, or any model folder, and measure its answers to `items`, in their order."""
    return measured(ask(folder, items, config), items, config)


def ask(
    folder: Path, items: Sequence[Example], config: Evaluate, passages: Sequence[Sequence[str]] | None = None
) -> Answers:
    """Load a model folder and ask it `items`, in their order, and how likely it finds the references.

    Args:
        folder: of the model.
        items: that are asked.
        config: how long answers may be.
        passages: that each item's context is made of, as many as the model has room for, as in serving; then
            references are not scored. None: each has the context that it has.
    """
    model = open_model(folder)
    try:
        if passages is None:
            nats = model.nats(reference_tokens(model.tokenizer, items))
            contexts = [item.context for item in items]
        else:
            nats = []
            contexts = [
                joined(fit(some, partial(has_room, model, item.question, config.max_new_tokens)))
                for item, some in zip(items, passages, strict=True)
            ]
        asked = [(item.question, context) for item, context in zip(items, contexts, strict=True)]
        return answer(model, asked, config.max_new_tokens, config.batch), nats
    finally:
        model.close()


def measured(answers: Answers, items: Sequence[Example], config: Evaluate) -> Answered:
    """How good answers to `items` are; how likely a model finds the references only where that was looked at."""
    texts, likelihood = answers
    columns, whole = TASKS[config.task].score(texts, [item.answer for item in items], config.k)
    if not likelihood:
        return Answered(texts, columns, {metric: intervals.mean(values) for metric, values in columns.items()}, whole)
    nats, tokens = ([float(value) for value in side] for side in zip(*likelihood, strict=True))
    measures = {metric: intervals.mean(values) for metric, values in columns.items()}
    measures["perplexity"] = perplexity(nats, [int(n) for n in tokens])
    return Answered(texts, {**columns, "reference_nats": [*nats], "reference_tokens": [*tokens]}, measures, whole)


@contextmanager
def deterministic() -> Iterator[None]:
    """Only kernels that give the same bits every time; cuBLAS needs a fixed workspace for that."""
    before = torch.are_deterministic_algorithms_enabled()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
