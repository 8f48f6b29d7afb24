"""The threshold below which a classifier gives no label, and the curve from which another one can be chosen."""

import numpy as np
import pytest

from llmops.config import Compress
from llmops.model.base.classifier import Calibration
from llmops.model.compress.threshold import Confidence, choose_threshold, find_precise_threshold, make_curve

RNG = np.random.default_rng(0)


def make_confidence(inside: list[float], right: list[float], outside: list[float] | None = None) -> Confidence:
    return Confidence(np.array(inside, np.float32), np.array(right), np.array(outside or [], np.float32))


@pytest.mark.parametrize("precision", [0.5, 0.6, 0.75, 0.95, 1.0])
def test_labels_from_the_threshold_on_have_the_precision(precision: float) -> None:
    """Many texts have the same confidence, and some differ in the seventh digit only."""
    for _ in range(200):
        levels = RNG.choice([0.3, 0.5, 0.5000001, 0.5000002, 0.9, 0.9999999], 40).astype(np.float32)
        right = RNG.random(40) < levels
        calibration = Calibration(threshold=find_precise_threshold(levels, right.astype(float), precision))
        given = [bool(is_right) for value, is_right in zip(levels, right, strict=True) if calibration.is_sure(value)]
        assert not given or np.mean(given) >= precision


def test_ties_and_rounding_do_not_lower_the_precision() -> None:
    tied = np.full(10, 0.9, np.float32), np.array([1.0, 0.0] * 5)
    assert find_precise_threshold(*tied, 0.95) == 1.0
    close = np.array([0.5000002, *[0.5000001] * 4], np.float32), np.array([1.0, 0.0, 0.0, 0.0, 0.0])
    found = find_precise_threshold(*close, 0.95)
    assert [bool(value >= found) for value in close[0]] == [True, False, False, False, False]
    certain = Calibration(threshold=find_precise_threshold(np.ones(4, np.float32), np.array([1.0, 0, 1, 0]), 0.95))
    assert not certain.is_sure(1.0)
