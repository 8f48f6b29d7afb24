"""The metrics that each task has of every answer: what the gate can decide on, and which way is better.

The functions behind the names are in `llmops/model/scoring/metrics.py`, the columns they make in
`llmops/model/evaluate/tasks.py`; a test compares those with this list.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

TaskName = Literal["qa", "generation", "classification", "multilabel"]

_TEXT = ("token_f1", "rouge_1", "rouge_2", "rouge_l", "sentence_bleu", "reading_ease")
_ITEM: Mapping[TaskName, tuple[str, ...]] = {
    "qa": ("token_f1", "exact_match", *_TEXT[1:]),
    "generation": _TEXT,
    "classification": ("accuracy",),
    "multilabel": ("label_f1", "exact_match", "hamming_loss"),
}

LOWER_IS_BETTER = frozenset({"perplexity", "hamming_loss"})  #: of all other metrics more is better
DESCRIPTIVE = frozenset({"reading_ease"})  #: but of these, which only describe an answer


def item_metrics(task: TaskName, k: int) -> tuple[str, ...]:
    """Names of what is measured of each answer; `k` is that of precision@k."""
    return (*_ITEM[task], *((f"precision_at_{k}",) if task == "multilabel" else ()))
