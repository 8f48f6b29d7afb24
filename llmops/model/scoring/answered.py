"""What a model answers to the items of a test, through the code that serves it, and how good that is."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from llmops.config import Evaluate
from llmops.model.base.answering import answer, open_model
from llmops.model.scoring.likelihood import perplexity, reference_tokens
from llmops.model.scoring.tasks import TASKS, Columns
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
    model = open_model(folder)
    likelihood = model.nats(reference_tokens(model.tokenizer, items))  # first: see `GgufModel`
    texts = answer(model, [(i.question, i.context) for i in items], config.max_new_tokens, config.batch)
    model.close()
    columns, whole = TASKS[config.task].score(texts, [item.answer for item in items], config.k)
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
