"""Calibrate a classifier on validation examples: its probabilities, and the least one with which it gives a label."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar

from llmops.data.features.tokenize import Tokens
from llmops.frame.statistics.bootstrap import Floats
from llmops.model.base.classifier import Calibration, Classifier, write_calibration
from llmops.model.scoring.calibration import measure_calibration_error


def calibrate(folder: Path, examples: Sequence[Tokens], precision: float) -> dict[str, Any]:
    """Write `calibration.json` of a servable; return its values, and what they do on the examples.

    The temperature makes the examples likeliest (Guo et al. 2017, arXiv:1706.04599). The threshold is the lowest at
    which the given labels have the `precision`.
    """
    model = Classifier(folder)
    scores = model.compute_scores([example.token_ids[:-1] for example in examples])
    numbers = np.array([example.token_ids[-1] for example in examples])
    model.close()

    def compute_loss(logarithm: float) -> float:
        found = Calibration(float(np.exp(logarithm))).compute_probabilities(scores)
        return -float(np.mean(np.log(np.maximum(found[np.arange(len(numbers)), numbers], 1e-9))))

    temperature = float(np.exp(minimize_scalar(compute_loss, bounds=(-2.5, 2.5), method="bounded").x))
    right = scores.argmax(axis=1) == numbers
    before, after = (Calibration(t).compute_probabilities(scores).max(axis=1) for t in (1.0, temperature))
    calibration = Calibration(round(temperature, 6), choose_threshold(after, right, precision))
    write_calibration(calibration, folder)
    return {
        "temperature": calibration.temperature,
        "threshold": calibration.threshold,
        "calibration_error_before": _measure_error(before, right),
        "calibration_error": _measure_error(after, right),
        "answered": round(float(np.mean(after >= calibration.threshold)), 4),
    }


def choose_threshold(confidence: Floats, right: Floats, precision: float) -> float:
    """Return the lowest confidence from which so large a share of the labels is right; 1 if there is none."""
    order = np.argsort(-confidence, kind="stable")
    precise = np.flatnonzero(np.cumsum(right[order]) / np.arange(1, len(order) + 1) >= precision)
    if not len(precise):
        return 1.0
    last = int(precise[-1])
    # No rounding up: the example that the threshold comes from must reach it.
    return 0.0 if last == len(order) - 1 else math.floor(float(confidence[order[last]]) * 1e6) / 1e6


def _measure_error(confidence: Floats, right: Floats) -> float:
    measure = measure_calibration_error(confidence, right)
    return round(float(measure.combine(measure.columns.sum(axis=0, keepdims=True))[0]), 4)
