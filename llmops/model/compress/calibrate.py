"""Calibrate a classifier on validation examples: its probabilities, and the least one with which it gives a label."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar

from llmops.config import Compress
from llmops.data.features.tokenize import Tokens
from llmops.frame.records import OUT_OF_SCOPE_FILE, Example, read_rows
from llmops.frame.statistics.bootstrap import Floats
from llmops.model.base.classifier import Calibration, Classifier, write_calibration
from llmops.model.compress.threshold import Confidence, choose_threshold, make_curve
from llmops.model.scoring.calibration import measure_calibration_error


def calibrate(folder: Path, examples: Sequence[Tokens], annotate: Path, config: Compress) -> dict[str, Any]:
    """Write `calibration.json` of a servable; return its values, what they do on the examples, and the `curve`.

    The temperature makes the examples likeliest (Guo et al. 2017, arXiv:1706.04599). `threshold` has the rules of the
    threshold, which also read the out-of-scope texts of the artifact `annotate`.
    """
    model = Classifier(folder)
    scores = model.compute_scores([example.token_ids[:-1] for example in examples])
    numbers = np.array([example.token_ids[-1] for example in examples])

    def compute_loss(logarithm: float) -> float:
        found = Calibration(float(np.exp(logarithm))).compute_probabilities(scores)
        return -float(np.mean(np.log(np.maximum(found[np.arange(len(numbers)), numbers], 1e-9))))

    best = minimize_scalar(compute_loss, bounds=(-2.5, 2.5), method="bounded").x
    model.calibration = Calibration(round(float(np.exp(best)), 6))
    right = (scores.argmax(axis=1) == numbers).astype(np.float64)
    before, after = (one.compute_probabilities(scores).max(axis=1) for one in (Calibration(), model.calibration))
    confidence = Confidence(after, right, *_read_out_of_scope(model, annotate / OUT_OF_SCOPE_FILE))
    model.close()
    threshold = choose_threshold(confidence, config)
    write_calibration(Calibration(model.calibration.temperature, threshold), folder)
    curve = make_curve(confidence, threshold)
    chosen = next(point for point in curve if point["threshold"] == threshold)
    return {
        "temperature": model.calibration.temperature,
        "threshold": threshold,
        "calibration_error_before": _measure_error(before, right),
        "calibration_error": _measure_error(after, right),
        "answered": round(1 - chosen["refused"], 4),
        "out_of_scope_examples": len(confidence.examples),
        "out_of_scope_measured": len(confidence.held_out),
        **{key: chosen[key] for key in ("out_of_scope_refused",) if key in chosen},
        "curve": curve,
    }


def _read_out_of_scope(model: Classifier, file: Path) -> tuple[Floats, Floats]:
    """Return the confidence of out-of-scope texts: of those that choose the threshold, and of those that measure it."""
    rows = read_rows(file, Example) if file.is_file() else []
    texts = [[(row.question, row.context) for row in rows if row.split == split] for split in ("validation", "test")]
    examples, held_out = (model.classify(some)[0].max(axis=1) if some else np.zeros(0) for some in texts)
    return examples, held_out


def _measure_error(confidence: Floats, right: Floats) -> float:
    measure = measure_calibration_error(confidence, right)
    return round(float(measure.combine(measure.columns.sum(axis=0, keepdims=True))[0]), 4)
