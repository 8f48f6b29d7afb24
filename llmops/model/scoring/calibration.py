"""The expected calibration error of a classifier (Naeini et al. 2015; Guo et al. 2017, arXiv:1706.04599)."""

import numpy as np

from llmops.frame.statistics.bootstrap import Floats, Measure

BINS = 15  #: of equal width


def measure_calibration_error(confidence: Floats, right: Floats) -> Measure:
    """Measure the mean distance of confidence and accuracy over bins of confidence, weighted by their examples.

    Args:
        confidence: probability of the given label, (examples,).
        right: 1 where the label is right, else 0, (examples,).
    """
    rows = np.zeros((len(confidence), BINS))
    bins = np.minimum((np.asarray(confidence) * BINS).astype(int), BINS - 1)
    rows[np.arange(len(bins)), bins] = np.asarray(confidence, np.float64) - np.asarray(right, np.float64)
    count = np.ones((len(confidence), 1))
    return Measure(np.hstack([rows, count]), lambda sums: np.abs(sums[..., :-1]).sum(axis=-1) / sums[..., -1])
