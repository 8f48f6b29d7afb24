"""Tasks and their metrics.

To add a task, write its function, its row of `TASKS` and its metrics' names in `llmops/config/model.py`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from llmops.config.model import TaskName
from llmops.frame.records import Example
from llmops.frame.statistics.bootstrap import Floats, Measure
from llmops.model.scoring import metrics

Columns = dict[str, list[float | None]]  #: metric → one value per item, or none
Scorer = Callable[[Sequence[str], Sequence[str], int], tuple[Columns, dict[str, Measure]]]


@dataclass(frozen=True, slots=True)
class Task:
    """A kind of answer."""

    primary: str  #: the metric of an item that answers are ranked by; higher is better
    #: (answers, references, k of precision@k) → metrics of each item, and metrics that only the whole has
    score: Scorer


def score_question_answering(
    answers: Sequence[str], references: Sequence[str], k: int
) -> tuple[Columns, dict[str, Measure]]:
    """Score short answers with one right wording: `token_f1`, `exact_match` and all metrics of `score_generation`."""
    columns, test_metrics = score_generation(answers, references, k)
    pairs = list(zip(answers, references, strict=True))
    matches: list[float | None] = [metrics.compute_exact_match(*p) for p in pairs]
    return {"token_f1": columns["token_f1"], "exact_match": matches, **columns}, test_metrics


def score_generation(answers: Sequence[str], references: Sequence[str], k: int) -> tuple[Columns, dict[str, Measure]]:
    """Score free texts: `rouge_1`, `_2`, `_l`, `token_f1`, `sentence_bleu`, `reading_ease`; `bleu` of the whole."""
    pairs = list(zip(answers, references, strict=True))
    rouges = [metrics.compute_rouge(*p) for p in pairs]
    bleus = [metrics.compute_bleu(*p) for p in pairs]
    columns: Columns = {
        "token_f1": [metrics.compute_token_f1(*p) for p in pairs],
        **{name: [r[name] for r in rouges] for name in ("rouge_1", "rouge_2", "rouge_l")},
        "sentence_bleu": [score for score, _ in bleus],
        "reading_ease": [metrics.compute_reading_ease(answer) for answer in answers],
    }
    return columns, {"bleu": Measure(np.array([counts for _, counts in bleus], dtype=np.float64), _combine_bleu)}


def score_classification(
    answers: Sequence[str], references: Sequence[str], k: int
) -> tuple[Columns, dict[str, Measure]]:
    """Score one label an answer, as written in the references: `accuracy`; `macro_f1` of the whole."""
    truth = [" ".join(metrics.normalise_words(reference)) for reference in references]
    labels = sorted(set(truth))
    predicted = [metrics.find_only_label(answer, labels) for answer in answers]
    columns: Columns = {"accuracy": [float(a == b) for a, b in zip(predicted, truth, strict=True)]}
    tables = [metrics.make_indicators([[label] for label in side], labels) for side in (truth, predicted)]
    return columns, {"macro_f1": metrics.measure_macro_f1(*tables)}


def score_multilabel(answers: Sequence[str], references: Sequence[str], k: int) -> tuple[Columns, dict[str, Measure]]:
    """Score several labels an answer, separated by commas, the surest first.

    `label_f1`, `exact_match` (all labels right and no other), `hamming_loss` (share of the known labels that are
    wrongly given or missing), `precision_at_<k>`; `macro_f1` of the whole.
    """
    truth, predicted = ([metrics.split_labels(text) for text in side] for side in (references, answers))
    labels = sorted(set(chain.from_iterable(truth)))
    pairs = list(zip(predicted, truth, strict=True))
    columns: Columns = {
        "label_f1": [metrics.compute_label_f1(a, b) for a, b in pairs],
        "exact_match": [float(set(a) == set(b)) for a, b in pairs],
        "hamming_loss": [len(set(a) & set(labels) ^ set(b)) / max(1, len(labels)) for a, b in pairs],
        f"precision_at_{k}": [metrics.compute_precision_at(a, b, k) for a, b in pairs],
    }
    tables = [metrics.make_indicators(side, labels) for side in (truth, predicted)]
    return columns, {"macro_f1": metrics.measure_macro_f1(*tables)}


def find_topic(item: Example, task: TaskName) -> str:
    """Return the topic within which answers to items are alike: of a label every text is its own, else the group."""
    return item.id if task in ("classification", "multilabel") else item.group


TASKS: Mapping[str, Task] = {
    "qa": Task("token_f1", score_question_answering),
    "generation": Task("rouge_l", score_generation),
    "classification": Task("accuracy", score_classification),
    "multilabel": Task("label_f1", score_multilabel),
}


def _combine_bleu(sums: Floats) -> Floats:
    return np.array([metrics.compute_corpus_bleu(row) for row in np.rint(sums).astype(int).tolist()])
