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
from llmops.frame.statistics import bootstrap
from llmops.frame.statistics.bootstrap import Measure, divide_sums
from llmops.model.base.classifier import Classifier
from llmops.model.base.inference import answer_questions, open_model
from llmops.model.scoring.calibration import measure_calibration_error
from llmops.model.scoring.tasks import TASKS, Columns
from llmops.prompts import encode_examples


@dataclass(frozen=True, slots=True)
class QuestionSet:
    """The questions of a test, with contexts and known answers."""

    items: Sequence[Example]  #: with the contexts that the model reads
    known_answers: Mapping[int, str] = field(default_factory=dict)  #: position of an item → answer without the model


@dataclass(frozen=True, slots=True)
class ScoredAnswers:
    """The answers of one model with their measures."""

    answers: list[str]
    columns: Columns  #: metric → one value per item
    item_metrics: dict[str, Measure]  #: metrics of any part of the test
    test_metrics: dict[str, Measure]  #: metrics of the whole test only


def score_answers(folder: Path, question_sets: Sequence[QuestionSet], config: Evaluate) -> list[ScoredAnswers]:
    """Load a servable, or any model folder, and score its answers to each set of questions.

    An item that is the same in two sets is answered once.
    """
    model = open_model(folder)
    items = list(dict.fromkeys(item for one in question_sets for item in one.items))
    references = model.tokenize(items) if isinstance(model, Classifier) else tokenize_references(model.tokenizer, items)
    nats = dict(zip(items, model.compute_nats(references), strict=True))  # first: see `GgufModel`
    open_items = list(
        dict.fromkeys(item for one in question_sets for n, item in enumerate(one.items) if n not in one.known_answers)
    )
    prompts = [(item.question, item.context) for item in open_items]
    answers = dict(zip(open_items, answer_questions(model, prompts, config.max_new_tokens, config.batch), strict=True))
    confidence = None
    if isinstance(model, Classifier):
        confidence = dict(zip(open_items, model.find_confidence(prompts), strict=True))
    model.close()
    return [
        _score_question_set(one, answers, [nats[item] for item in one.items], config, confidence)
        for one in question_sets
    ]


@contextmanager
def use_deterministic_kernels() -> Iterator[None]:
    """Use only kernels that give the same bits every time; cuBLAS needs a fixed workspace for that."""
    before = torch.are_deterministic_algorithms_enabled()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def tokenize_references(tokenizer: PreTrainedTokenizerBase, items: Sequence[Example]) -> list[Tokens]:
    """Return the tokens of each item's prompt and reference answer, for `packing.compute_answer_nats`."""
    encoded = encode_examples(tokenizer, [(item.question, item.answer, item.context) for item in items])
    return [Tokens(item.id, *ids) for item, ids in zip(items, encoded, strict=True)]


def measure_perplexity(nats: Sequence[float], tokens: Sequence[int]) -> Measure:
    """Measure e to the power of the mean negative log-likelihood per token."""
    return Measure(np.stack([nats, tokens], axis=1).astype(np.float64), lambda sums: np.exp(divide_sums(sums)))


def measure_bits_per_byte(nats: Sequence[float], answers: Sequence[str]) -> Measure:
    """Measure bits per UTF-8 byte of the answers: comparable between tokenizers (arXiv:2101.00027, section 3.1)."""
    sizes = [max(1, len(answer.encode())) for answer in answers]
    return Measure(np.stack([nats, sizes], axis=1).astype(np.float64), lambda sums: divide_sums(sums) / np.log(2))


def _score_question_set(
    questions: QuestionSet,
    answers: Mapping[Example, str],
    likelihood: Sequence[tuple[float, int]],
    config: Evaluate,
    confidence: Mapping[Example, tuple[float, bool]] | None,
) -> ScoredAnswers:
    texts = [
        questions.known_answers[n] if n in questions.known_answers else answers[item]
        for n, item in enumerate(questions.items)
    ]
    columns, test_metrics = TASKS[config.task].score(texts, [item.answer for item in questions.items], config.k)
    if confidence:
        sure = [confidence[item] for item in questions.items]
        columns |= {
            "confidence": [probability for probability, _ in sure],
            "answered": [float(given) for _, given in sure],
            "answered_accuracy": [
                right if given else None for right, (_, given) in zip(columns["accuracy"], sure, strict=True)
            ],
        }
        test_metrics["calibration_error"] = measure_calibration_error(
            np.array(columns["confidence"], np.float64), np.array(columns["accuracy"], np.float64)
        )
    nats, tokens = ([float(value) for value in side] for side in zip(*likelihood, strict=True))
    item_metrics = {metric: bootstrap.make_mean(values) for metric, values in columns.items()}
    item_metrics["perplexity"] = measure_perplexity(nats, [int(n) for n in tokens])
    return ScoredAnswers(
        texts, {**columns, "reference_nats": [*nats], "reference_tokens": [*tokens]}, item_metrics, test_metrics
    )
