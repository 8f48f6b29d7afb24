"""One feature of two sets of requests: does it differ, and how much?

The p-value says whether: Kolmogorov and Smirnov's of numbers, Mann and Whitney's of those of which only less is worse,
of categories that of chi-square over tables drawn with the same margins (Patefield 1981), which few of a category do
not spoil. The population stability index says how much: 0.1 is commonly called moderate, 0.25 large. Chance alone makes
an index of about (bins - 1)(1/n + 1/m) (Yurdakul 2018, "Statistical properties of population stability index"); that
is taken off, so that it means the same for few requests.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import ks_2samp, mannwhitneyu, random_table
from scipy.stats.contingency import expected_freq

BINS = 10
_TABLES = 1_999
_EXACT = 100_000  #: pairs of numbers, below which the p-value of Kolmogorov and Smirnov is not the limit's
_LEAST = 0.5  #: what is added to each bin's count, so that an empty one gives no infinite index


class Compared(NamedTuple):
    """What a comparison of one feature found."""

    test: str
    statistic: float
    effect: float  #: the index, less chance
    p_value: float
    shares: dict[str, Any]  #: `bins`, names in words; `reference`, `window`: the share of each


def numbers(reference: Sequence[float | None], window: Sequence[float | None]) -> Compared | None:
    """Compare a number. What is missing or not finite does not count; None where a side has none, or all are equal."""
    if (sides := _sides(reference, window)) is None:
        return None
    method = "exact" if len(sides[0]) * len(sides[1]) <= _EXACT else "asymp"
    found = ks_2samp(*sides, method=method)
    names, *counts = _binned(*sides)
    return Compared("ks", float(found.statistic), index(*counts), float(found.pvalue), _shares(names, *counts))


def less(reference: Sequence[float | None], window: Sequence[float | None]) -> Compared | None:
    """Whether a number is less in the window, otherwise as `numbers`; the effect is the chance that one of the window
    is less than one of the reference, 0.5 where they are equal.

    By Mann and Whitney's test of one side: a few requests that are much less are lost in one that looks for any
    difference.
    """
    if (sides := _sides(reference, window)) is None:
        return None
    ours, theirs = sides
    found = mannwhitneyu(ours, theirs, alternative="greater", method="asymptotic")
    chance = float(found.statistic) / (len(ours) * len(theirs))
    return Compared("mann_whitney", float(found.statistic), chance, float(found.pvalue), _shares(*_binned(*sides)))


def categories(reference: Sequence[str | None], window: Sequence[str | None], seed: int = 0) -> Compared | None:
    """Compare a category; None where a side has none, or both have only one and the same."""
    ours, theirs = (Counter(value for value in side if value is not None) for side in (reference, window))
    names = sorted(ours | theirs, key=lambda name: (-ours[name], name))
    if not ours or not theirs or len(names) == 1:
        return None
    counts = [np.array([side[name] for name in names]) for side in (ours, theirs)]
    table = np.stack(counts)
    expected = expected_freq(table)
    drawn = random_table(table.sum(axis=1), table.sum(axis=0), seed=seed).rvs(_TABLES, method="patefield")
    observed = float(((table - expected) ** 2 / expected).sum())
    chance = ((drawn - expected) ** 2 / expected).sum(axis=(1, 2))
    p_value = (1 + int((chance >= observed * (1 - 1e-9)).sum())) / (1 + _TABLES)
    return Compared("chi_square", observed, index(*counts), p_value, _shares(names, *counts))


def moved(
    reference: Sequence[str | None], window: Sequence[str | None], level: float
) -> list[tuple[str, float, float]]:
    """The categories whose share differs, as (name, share before, share now), the largest difference first.

    Each by the normal test of two shares, and all of them by Bonferroni: it only points at what to look at.
    """
    ours, theirs = (Counter(value for value in side if value is not None) for side in (reference, window))
    n, m = ours.total(), theirs.total()
    if not n or not m:
        return []
    found = []
    for name in ours | theirs:
        before, now, both = ours[name] / n, theirs[name] / m, (ours[name] + theirs[name]) / (n + m)
        error = math.sqrt(max(both * (1 - both), 1e-12) * (1 / n + 1 / m))
        if math.erfc(abs(now - before) / error / math.sqrt(2)) * len(ours | theirs) <= level:
            found.append((name, before, now))
    return sorted(found, key=lambda each: (-abs(each[2] - each[1]), each[0]))


def index(reference: NDArray[np.int64], window: NDArray[np.int64]) -> float:
    """The population stability index of two rows of counts, less what chance alone makes of it; never below 0."""
    ours, theirs = ((side + _LEAST) / (side + _LEAST).sum() for side in (reference, window))
    chance = (len(reference) - 1) * (1 / reference.sum() + 1 / window.sum())
    return max(0.0, float(((theirs - ours) * np.log(theirs / ours)).sum() - chance))


def _sides(
    reference: Sequence[float | None], window: Sequence[float | None]
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """The numbers of both; None where there is nothing to compare."""
    ours, theirs = _finite(reference), _finite(window)
    if not len(ours) or not len(theirs) or (ours[0] == ours).all() and (theirs == ours[0]).all():
        return None
    return ours, theirs


def _binned(
    ours: NDArray[np.float64], theirs: NDArray[np.float64]
) -> tuple[list[str], NDArray[np.int64], NDArray[np.int64]]:
    """Names of `BINS` spans that have about as much of `ours`, and how many of either are in each."""
    edges = np.unique(np.quantile(ours, np.arange(1, BINS) / BINS, method="lower"))
    if len(edges) == 1:  # what was constant differs from what is less, and from what is more
        edges = np.array([np.nextafter(edges[0], -np.inf), edges[0]])
    spans = [f"{_shown(a)} to {_shown(b)}" if b - a > 1e-9 else _shown(b) for a, b in itertools.pairwise(edges)]
    names = [f"≤ {_shown(edges[0])}", *spans, f"> {_shown(edges[-1])}"]
    counts = [np.bincount(np.searchsorted(edges, side), minlength=len(edges) + 1) for side in (ours, theirs)]
    return names, counts[0], counts[1]


def _shares(names: list[str], ours: NDArray[np.int64], theirs: NDArray[np.int64]) -> dict[str, Any]:
    return {
        "bins": names,
        "reference": [round(float(share), 4) for share in ours / ours.sum()],
        "window": [round(float(share), 4) for share in theirs / theirs.sum()],
    }


def _finite(values: Sequence[float | None]) -> NDArray[np.float64]:
    numbers = np.array([math.nan if value is None else float(value) for value in values], np.float64)
    return numbers[np.isfinite(numbers)]


def _shown(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
