"""Answers of a model to the items of a test, through the code that serves it, and their measures."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from llmops.config import Evaluate
from llmops.data.features.tokenize import Tokens
from llmops.frame.records import Example
from llmops.frame.statistics import intervals
from llmops.frame.statistics.intervals import Measure, quotient
from llmops.model.base.answering import answer, open_model
from llmops.model.scoring.tasks import TASKS, Columns
from llmops.prompts import all_training_ids


@dataclass(frozen=True, slots=True)
class Asked:
    """A test as a model is asked it."""

    items: Sequence[Example]  #: with the contexts that the model reads
    known: Mapping[int, str] = field(default_factory=dict)  #: position of an item → answer without the model


@dataclass(frozen=True, slots=True)
class Answered:
    """The answers of one model with their measures."""

    answers: list[str]
    columns: Columns  #: metric → one value per item
    items: dict[str, Measure]  #: metrics of any part of the test
    whole: dict[str, Measure]  #: metrics of the whole test only


def answer_test(folder: Path, asked: Sequence[Asked], config: Evaluate) -> list[Answered]:
    """Load a servable, or any model folder, and measure its answers each way that the test is asked.

    An item that is asked alike two ways is answered once.
    """
    model = open_model(folder)
    items = list(dict.fromkeys(item for one in asked for item in one.items))
    nats = dict(zip(items, model.nats(reference_tokens(model.tokenizer, items)), strict=True))  # first: see `GgufModel`
    todo = list(dict.fromkeys(item for one in asked for n, item in enumerate(one.items) if n not in one.known))
    prompts = [(item.question, item.context) for item in todo]
    said = dict(zip(todo, answer(model, prompts, config.max_new_tokens, config.batch), strict=True))
    model.close()
    return [_measured(one, said, [nats[item] for item in one.items], config) for one in asked]


@contextmanager
def deterministic() -> Iterator[None]:
    """Use only kernels that give the same bits every time; cuBLAS needs a fixed workspace for that."""
    before = torch.are_deterministic_algorithms_enabled()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def reference_tokens(tokenizer: PreTrainedTokenizerBase, items: Sequence[Example]) -> list[Tokens]:
    """Return the tokens of each item's prompt and reference answer, for `packing.answer_nats`; nothing is cut off."""
    made = all_training_ids(tokenizer, [(item.question, item.answer, item.context) for item in items])
    return [Tokens(item.id, *ids) for item, ids in zip(items, made, strict=True)]


def perplexity(nats: Sequence[float], tokens: Sequence[int]) -> Measure:
    """Measure e to the power of the mean negative log-likelihood per token."""
    return Measure(np.stack([nats, tokens], axis=1).astype(np.float64), lambda sums: np.exp(quotient(sums)))


def bits_per_byte(nats: Sequence[float], answers: Sequence[str]) -> Measure:
    """Measure bits per UTF-8 byte of the answers: comparable between tokenizers (arXiv:2101.00027, section 3.1)."""
    sizes = [max(1, len(answer.encode())) for answer in answers]
    return Measure(np.stack([nats, sizes], axis=1).astype(np.float64), lambda sums: quotient(sums) / np.log(2))


def _measured(
    asked: Asked, said: Mapping[Example, str], likelihood: Sequence[tuple[float, int]], config: Evaluate
) -> Answered:
    texts = [asked.known[n] if n in asked.known else said[item] for n, item in enumerate(asked.items)]
    columns, whole = TASKS[config.task].score(texts, [item.answer for item in asked.items], config.k)
    nats, tokens = ([float(value) for value in side] for side in zip(*likelihood, strict=True))
    measures = {metric: intervals.mean(values) for metric, values in columns.items()}
    measures["perplexity"] = perplexity(nats, [int(n) for n in tokens])
    return Answered(texts, {**columns, "reference_nats": [*nats], "reference_tokens": [*tokens]}, measures, whole)
