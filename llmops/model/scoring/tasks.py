"""Tasks and their metrics.

To add a task, write its function, its row of `TASKS` and its metrics' names in `llmops/config/model.py`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from llmops.frame.statistics.intervals import Floats, Measure
from llmops.model.scoring import metrics

Columns = dict[str, list[float | None]]  #: metric → one value per item, or none
Scorer = Callable[[Sequence[str], Sequence[str], int], tuple[Columns, dict[str, Measure]]]


@dataclass(frozen=True, slots=True)
class Task:
    """A kind of answer."""

    primary: str  #: the metric of an item that answers are ranked by; higher is better
    #: (answers, references, k of precision@k) → metrics of each item, and metrics that only the whole has
    score: Scorer


def question_answering(answers: Sequence[str], references: Sequence[str], k: int) -> tuple[Columns, dict[str, Measure]]:
    """Score short answers with one right wording: `token_f1`, `exact_match` and all metrics of `generation`."""
    columns, whole = generation(answers, references, k)
    pairs = list(zip(answers, references, strict=True))
    return {"token_f1": columns["token_f1"], "exact_match": [metrics.exact_match(*p) for p in pairs], **columns}, whole


def generation(answers: Sequence[str], references: Sequence[str], k: int) -> tuple[Columns, dict[str, Measure]]:
    """Score free texts: `rouge_l` and its kin, `token_f1`, `sentence_bleu`, `reading_ease`; `bleu` of the whole."""
    pairs = list(zip(answers, references, strict=True))
    rouges = [metrics.rouge(*p) for p in pairs]
    bleus = [metrics.bleu(*p) for p in pairs]
    columns: Columns = {
        "token_f1": [metrics.token_f1(*p) for p in pairs],
        **{name: [r[name] for r in rouges] for name in ("rouge_1", "rouge_2", "rouge_l")},
        "sentence_bleu": [score for score, _ in bleus],
        "reading_ease": [metrics.reading_ease(answer) for answer in answers],
    }
    return columns, {"bleu": Measure(np.array([counts for _, counts in bleus], dtype=np.float64), _bleus)}


def classification(answers: Sequence[str], references: Sequence[str], k: int) -> tuple[Columns, dict[str, Measure]]:
    """Score one label an answer, as written in the references: `accuracy`; `macro_f1` of the whole."""
    truth = [" ".join(metrics.normalise(reference)) for reference in references]
    known = sorted(set(truth))
    said = [metrics.only_label(answer, known) for answer in answers]
    columns: Columns = {"accuracy": [float(a == b) for a, b in zip(said, truth, strict=True)]}
    tables = [metrics.indicators([[label] for label in side], known) for side in (truth, said)]
    return columns, {"macro_f1": metrics.macro_f1(*tables)}


def multilabel(answers: Sequence[str], references: Sequence[str], k: int) -> tuple[Columns, dict[str, Measure]]:
    """Score several labels an answer, separated by commas, the surest first.

    `label_f1`, `exact_match` (all labels right and no other), `hamming_loss` (share of the known labels that are
    wrongly given or missing), `precision_at_<k>`; `macro_f1` of the whole.
    """
    truth, said = ([metrics.names(text) for text in side] for side in (references, answers))
    known = sorted(set(chain.from_iterable(truth)))
    pairs = list(zip(said, truth, strict=True))
    columns: Columns = {
        "label_f1": [metrics.label_f1(a, b) for a, b in pairs],
        "exact_match": [float(set(a) == set(b)) for a, b in pairs],
        "hamming_loss": [len(set(a) & set(known) ^ set(b)) / max(1, len(known)) for a, b in pairs],
        f"precision_at_{k}": [metrics.precision_at(a, b, k) for a, b in pairs],
    }
    return columns, {"macro_f1": metrics.macro_f1(*(metrics.indicators(side, known) for side in (truth, said)))}


TASKS: Mapping[str, Task] = {
    "qa": Task("token_f1", question_answering),
    "generation": Task("rouge_l", generation),
    "classification": Task("accuracy", classification),
    "multilabel": Task("label_f1", multilabel),
}


def _bleus(sums: Floats) -> Floats:
    return np.array([metrics.corpus_bleu(row) for row in np.rint(sums).astype(int).tolist()])
