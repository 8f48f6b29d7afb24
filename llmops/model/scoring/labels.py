"""Answers that are a label, or several: what a generated text names, and the counts that classification metrics need.

The labels are those of the references. scikit-learn's metrics are functions of these counts too. They are written out
here, and compared with it by a test, because an interval would take 2,000 calls of 1 ms, and takes one of 2 ms.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from llmops.model.scoring.metrics import normalise
from llmops.statistics.intervals import Floats, Measure

_SEPARATOR = re.compile(r"[,;|\n]")


def names(text: str) -> list[str]:
    """The labels that a list such as "Billing, refund" names, in its order, normalised, each once."""
    return list(dict.fromkeys(label for part in _SEPARATOR.split(text) if (label := _label(part))))


def only_label(answer: str, known: Sequence[str]) -> str:
    """The known label that the answer is, else the only one that it mentions; empty if it mentions none or several.

    A label that stands within a longer one that is mentioned does not count.
    """
    text = _label(answer)
    if text in known:
        return text
    mentioned = [label for label in known if f" {label} " in f" {text} "]
    longest = [a for a in mentioned if not any(a != b and f" {a} " in f" {b} " for b in mentioned)]
    return longest[0] if len(longest) == 1 else ""


def indicators(labels: Sequence[Sequence[str]], known: Sequence[str]) -> Floats:
    """Shape (items, known labels): 1 where an item has the label."""
    column = {label: n for n, label in enumerate(known)}
    table = np.zeros((len(labels), len(known)))
    for row, found in enumerate(labels):
        table[row, [column[label] for label in found if label in column]] = 1
    return table


def macro_f1(truth: Floats, said: Floats) -> Measure:
    """Unweighted mean of the labels' F1, over the labels that occur in the truth or in the answers.

    Args:
        truth, said: indicators of shape (items, labels).
    """

    def combine(sums: Floats) -> Floats:
        right, wrong, missed = np.split(sums, 3, axis=1)
        scores = 2 * right / (2 * right + wrong + missed)
        counts = (~np.isnan(scores)).sum(axis=1)
        mean: Floats = np.nansum(scores, axis=1) / counts
        return mean

    return Measure(np.concatenate([truth * said, (1 - truth) * said, truth * (1 - said)], axis=1), combine)


def label_f1(answer: Sequence[str], reference: Sequence[str]) -> float:
    """F1 of one item's labels, 0 to 1; both empty is right."""
    both = len(answer) + len(reference)
    return 2 * len(set(answer) & set(reference)) / both if both else 1.0


def precision_at(answer: Sequence[str], reference: Sequence[str], k: int) -> float:
    """Share of right labels among the first `k` that were given; a missing one is a wrong one."""
    return len(set(answer[:k]) & set(reference)) / k


def _label(text: str) -> str:
    return " ".join(normalise(text))
