"""The threshold of a classifier: a text whose likeliest label has a lower probability gets no label.

These rules choose it, on validation texts and on examples of texts that are out of scope, if there are any:

- By default at most 2 % of the validation texts are refused, so it is their second percentile. Without out-of-scope
  texts nothing tells how many of those it refuses, and a precision that all labels together have refuses none.
- With out-of-scope texts it is where the share of these that is refused exceeds that of the validation texts most
  (Youden's index, 1950), up to 10 % of the validation texts. It does not depend on how many of each kind are given.
- `compress.max_refused` sets another share in place of both.
- `compress.precision` raises it until so many of the given labels are right.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from llmops.config import Compress
from llmops.frame.statistics.bootstrap import Floats
from llmops.model.base.classifier import NEVER

SURE = float(np.nextafter(np.float32(1), np.float32(0)))  #: threshold that only probabilities of 1 reach
MAX_REFUSED = 0.02  #: share of validation texts that are refused, if `compress.max_refused` is not set
#: The same with out-of-scope texts. Without a limit, texts that are like those of the labels cost too much: banking77's
#: own intents, 20 of which were left out, made a quarter of the texts in scope be refused.
MAX_REFUSED_WITH_EXAMPLES = 0.1
CURVE = (0.0, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.15, 0.2, 0.3)  #: shares of refused validation texts
CurvePoint = Mapping[str, float]  #: `threshold`, `refused`, `accuracy`, and `out_of_scope_refused` if it is measured


@dataclass(frozen=True, slots=True, eq=False)
class Confidence:
    """The highest probability of each text."""

    labelled: Floats  #: of validation texts
    right: Floats  #: 1 if the likeliest label of such a text is right, else 0
    examples: Floats  #: of out-of-scope texts with which the threshold is chosen; may be empty
    held_out: Floats  #: of other out-of-scope texts, on which it is measured; may be empty


def choose_threshold(confidence: Confidence, config: Compress) -> float:
    """Return the threshold by the rules above; 0: every text gets a label."""
    found, share = confidence, config.max_refused
    if share is None:
        share = MAX_REFUSED_WITH_EXAMPLES if len(found.examples) else MAX_REFUSED
    threshold = find_highest_threshold(found.labelled, share)
    if len(found.examples):
        threshold = separate(found.labelled, found.examples, threshold)
    return find_precise_threshold(found.labelled, found.right, config.precision, threshold)


def find_highest_threshold(confidence: Floats, share: float) -> float:
    """Return the highest of the texts' confidences below which at most this share of them lies; 0 if it is 0."""
    if not share:
        return 0.0
    refused = math.floor(share * len(confidence) + 1e-9)  # else 0.29 · 100 would be 28
    return min(float(np.sort(confidence)[refused]), SURE)


def separate(labelled: Floats, out_of_scope: Floats, highest: float) -> float:
    """Return the threshold, up to `highest`, that refuses the most out-of-scope texts in excess of labelled ones.

    Both are counted as shares. Of equal thresholds it is the lowest; 0 refuses none.
    """
    thresholds = np.unique(np.concatenate([[0.0], labelled, out_of_scope]))
    thresholds = thresholds[thresholds <= highest]
    gained = _count_below(out_of_scope, thresholds) / len(out_of_scope)
    lost = _count_below(labelled, thresholds) / len(labelled)
    return float(thresholds[np.argmax(gained - lost)])


def find_precise_threshold(confidence: Floats, right: Floats, precision: float, lowest: float = 0.0) -> float:
    """Return the lowest threshold, from `lowest` on, from which so large a share of the labels is right.

    It is `lowest` or one of the confidences: texts of the same confidence get a label together. 0: every text gets
    one, `NEVER`: no confidence is enough. The share may fall as the threshold rises: the surest labels may be wrong.
    """
    levels = np.unique(confidence[confidence >= lowest])
    order = np.argsort(confidence, kind="stable")
    start = np.searchsorted(confidence[order], levels)
    right_from = np.cumsum(right[order][::-1])[::-1][start]
    precise = np.flatnonzero(right_from / (len(confidence) - start) >= precision)
    if not len(precise):
        return NEVER
    return lowest if precise[0] == 0 else min(float(levels[precise[0]]), SURE)


def make_curve(confidence: Confidence, threshold: float) -> list[CurvePoint]:
    """Return what some thresholds do, from low to high; the chosen `threshold` is among them."""
    found = confidence
    thresholds = {find_highest_threshold(found.labelled, share) for share in CURVE} | {threshold}
    return [_measure(found, one) for one in sorted(thresholds)]


def _measure(confidence: Confidence, threshold: float) -> CurvePoint:
    given, given_outside = (
        (values >= threshold) & (threshold < NEVER) for values in (confidence.labelled, confidence.held_out)
    )
    point = {"threshold": threshold, "refused": round(1 - float(given.mean()), 4)}
    if given.any():
        point["accuracy"] = round(float(confidence.right[given].mean()), 4)
    if len(confidence.held_out):
        point["out_of_scope_refused"] = round(1 - float(given_outside.mean()), 4)
    return point


def _count_below(values: Floats, thresholds: Floats) -> Floats:
    return np.searchsorted(np.sort(values), thresholds, side="left").astype(np.float64)
