"""The slope of a series of days, with an interval.

The Theil-Sen slope is the median of the slopes of all pairs of days, so single outliers do not move it (Sen 1968,
"Estimates of the regression coefficient based on Kendall's tau"). Its interval uses the variance of Kendall's S,
increased for autocorrelation (Hamed and Rao 1998, "A modified Mann-Kendall trend test for autocorrelated data"): days
that resemble the days before are less evidence than independent ones.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

MIN_DAYS = 10  #: shorter series have no slope


class Slope(NamedTuple):
    """Change per day."""

    value: float
    low: float
    high: float


def estimate_slope(days: Sequence[float], values: Sequence[float], confidence: float = 0.95) -> Slope | None:
    """Return the slope of a series; None for fewer than `MIN_DAYS` days.

    `days` are increasing and distinct. `confidence` is the level of the interval.
    """
    if len(days) < MIN_DAYS:
        return None
    x, y = np.asarray(days, np.float64), np.asarray(values, np.float64)
    early, late = np.triu_indices(len(x), 1)
    slopes = np.sort((y[late] - y[early]) / (x[late] - x[early]))
    middle = float(np.median(slopes))
    half_width = NormalDist().inv_cdf(0.5 + confidence / 2) * math.sqrt(
        _compute_variance(y) * _compute_inflation(y - middle * x)
    )
    low, high = math.floor((len(slopes) - half_width) / 2), math.ceil((len(slopes) + half_width) / 2)
    return Slope(middle, float(slopes[max(0, low)]), float(slopes[min(len(slopes) - 1, high)]))


def _compute_variance(values: NDArray[np.float64]) -> float:
    n = len(values)
    ties = sum(t * (t - 1) * (2 * t + 5) for t in Counter(values.tolist()).values())
    return float((n * (n - 1) * (2 * n + 5) - ties) / 18)


def _compute_inflation(residuals: NDArray[np.float64]) -> float:
    """Return the factor by which autocorrelation of the ranks increases the variance; at least 1."""
    n = len(residuals)
    ranks = rankdata(residuals) - (n + 1) / 2
    square_sum = float(ranks @ ranks)
    if not square_sum:
        return 1.0
    extra = 0.0
    for lag in range(1, n - 2):
        correlation = float(ranks[lag:] @ ranks[:-lag]) / square_sum
        if abs(correlation) > NormalDist().inv_cdf(0.975) / math.sqrt(n):  # smaller ones are chance
            extra += (n - lag) * (n - lag - 1) * (n - lag - 2) * correlation
    return max(1.0, 1 + 2 * extra / (n * (n - 1) * (n - 2)))
