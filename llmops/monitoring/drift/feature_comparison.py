"""Comparison of one feature between two sets of requests: does it differ, and how much?

The p-value says if it differs. For numbers it is the Kolmogorov-Smirnov test's. For categories it is that of chi-square
over random tables with the same margins (Patefield 1981), which stays valid for rare categories. The population
stability index (PSI) says how much: 0.1 is commonly called moderate, 0.25 large. Chance alone gives a PSI of about
(bins - 1)(1/n + 1/m) (Yurdakul 2018, "Statistical properties of population stability index"). It is subtracted, so
that the index is comparable for few requests.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import ks_2samp, random_table
from scipy.stats.contingency import expected_freq

MAX_BINS = 10
_RANDOM_TABLES = 1_999
_MAX_EXACT_PAIRS = 100_000  #: up to this number of pairs of values the Kolmogorov-Smirnov p-value is exact
_PSEUDO_COUNT = 0.5  #: added to each bin's count, so that an empty bin gives no infinite index


class Shift(NamedTuple):
    """The result of comparing one feature."""

    test: str
    statistic: float
    effect: float
    p_value: float
    shares: dict[str, Any]  #: `bins`: names; `reference` and `window`: the share of each bin


def compare_numbers(reference: Sequence[float | None], window: Sequence[float | None]) -> Shift | None:
    """Compare a number. Ignore missing and infinite values; return None if a side has no value or all are equal."""
    old, new = _select_finite(reference), _select_finite(window)
    if not len(old) or not len(new) or ((old[0] == old).all() and (new == old[0]).all()):
        return None
    edges = np.unique(np.quantile(old, np.arange(1, MAX_BINS) / MAX_BINS, method="lower"))
    if len(edges) == 1:  # a constant reference gets bins for less, equal and more
        edges = np.array([np.nextafter(edges[0], -np.inf), edges[0]])
    counts = [np.bincount(np.searchsorted(edges, side), minlength=len(edges) + 1) for side in (old, new)]
    spans = [
        f"{_format_number(a)} to {_format_number(b)}" if b - a > 1e-9 else _format_number(b)
        for a, b in itertools.pairwise(edges)
    ]
    names = [f"≤ {_format_number(edges[0])}", *spans, f"> {_format_number(edges[-1])}"]
    method = "exact" if len(old) * len(new) <= _MAX_EXACT_PAIRS else "asymp"
    result = ks_2samp(old, new, method=method)
    return _make_shift("ks", float(result.statistic), float(result.pvalue), names, *counts)


def compare_categories(reference: Sequence[str | None], window: Sequence[str | None], seed: int = 0) -> Shift | None:
    """Compare a category. Return None if a side has no value, or both have the same single one."""
    old, new = (Counter(value for value in side if value is not None) for side in (reference, window))
    names = sorted(old | new, key=lambda name: (-old[name], name))
    if not old or not new or len(names) == 1:
        return None
    counts = [np.array([side[name] for name in names]) for side in (old, new)]
    table = np.stack(counts)
    expected = expected_freq(table)
    random_tables = random_table(table.sum(axis=1), table.sum(axis=0), seed=seed).rvs(
        _RANDOM_TABLES, method="patefield"
    )
    observed = float(((table - expected) ** 2 / expected).sum())
    by_chance = ((random_tables - expected) ** 2 / expected).sum(axis=(1, 2))
    p_value = (1 + int((by_chance >= observed * (1 - 1e-9)).sum())) / (1 + _RANDOM_TABLES)
    return _make_shift("chi_square", observed, p_value, names, *counts)


def find_changed_shares(
    reference: Sequence[str | None], window: Sequence[str | None], level: float
) -> list[tuple[str, float, float]]:
    """Return the categories whose share differs, as (name, share before, share now), the largest difference first.

    Each uses the normal test of two shares with Bonferroni's correction. The list is only a hint where to look.
    """
    old, new = (Counter(value for value in side if value is not None) for side in (reference, window))
    n, m = old.total(), new.total()
    if not n or not m:
        return []
    changed = []
    for name in old | new:
        before, now, pooled = old[name] / n, new[name] / m, (old[name] + new[name]) / (n + m)
        error = math.sqrt(max(pooled * (1 - pooled), 1e-12) * (1 / n + 1 / m))
        if math.erfc(abs(now - before) / error / math.sqrt(2)) * len(old | new) <= level:
            changed.append((name, before, now))
    return sorted(changed, key=lambda each: (-abs(each[2] - each[1]), each[0]))


def compute_stability_index(reference: NDArray[np.int64], window: NDArray[np.int64]) -> float:
    """Return the population stability index of two rows of counts, minus the index expected by chance; at least 0."""
    old, new = ((side + _PSEUDO_COUNT) / (side + _PSEUDO_COUNT).sum() for side in (reference, window))
    chance = (len(reference) - 1) * (1 / reference.sum() + 1 / window.sum())
    return max(0.0, float(((new - old) * np.log(new / old)).sum() - chance))


def _make_shift(
    test: str, statistic: float, p_value: float, names: list[str], old: NDArray[np.int64], new: NDArray[np.int64]
) -> Shift:
    shares = {
        "bins": names,
        "reference": [round(float(share), 4) for share in old / old.sum()],
        "window": [round(float(share), 4) for share in new / new.sum()],
    }
    return Shift(test, statistic, compute_stability_index(old, new), p_value, shares)


def _select_finite(values: Sequence[float | None]) -> NDArray[np.float64]:
    numbers = np.array([math.nan if value is None else float(value) for value in values], np.float64)
    return numbers[np.isfinite(numbers)]


def _format_number(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
