"""A test that a mean difference is above a bound, for items in a few topics of unequal size.

It is the sign-flip test by topic (Fisher 1935, The Design of Experiments, section 21; for clusters Canay, Romano and
Shaikh 2017, "Randomization tests under an approximate symmetry assumption"). If two systems are equally good, each
could have given the other's answers to a topic, so the sum of a topic's differences is as likely with the opposite
sign. The probability of a sum as large as the observed one is then counted exactly, for any number of topics, sizes and
tails. It is approximate if one system is a little better in most topics and much worse in a few, so that both are equal
on average; `benchmarks/gate.py` has the rates.

Flipping the signs of a set of topics makes the sum no smaller exactly if the sum of that set is not above zero. So the
bounds of the test are quantiles of the means over all sets of topics (Hartigan 1969, "Using subsample values as
typical values"), and the interval is exactly that of the test. If there are few topics, all sets are used;
otherwise a random sample together with the empty set, which keeps the test exact (Phipson and Smyth 2010).
"""

import math
from collections.abc import Iterator, Sequence
from statistics import NormalDist

import numpy as np

from llmops.frame.statistics.bootstrap import Floats

_MAX_EXACT_TOPICS = 16  #: up to so many topics all 65,536 sets are used
_MIN_SETS, _MAX_SETS = 20_000, 500_000  #: sets that are drawn of more topics
_TAIL_SETS = 20  #: sets beyond the bound of a small level, enough for it to depend little on the draw
_CHUNK = 1 << 22  #: topics of sets at a time: 34 MB


def sum_by_topic(values: Floats, topics: Sequence[str]) -> tuple[Floats, Floats]:
    """Return the sums over each topic's items, of shape (topics, metrics), and the number of items of each topic.

    Args:
        values: a row per item, a column per metric.
        topics: of each item.
    """
    names, rows = np.unique(list(topics), return_inverse=True)
    sums = np.zeros((len(names), values.shape[1]))
    np.add.at(sums, rows, values)
    return sums, np.bincount(rows, minlength=len(names)).astype(np.float64)


def compute_smallest_level(groups: int) -> float:
    """Return the smallest level at which a test with so many topics can be passed: one case in 2^topics."""
    return 2.0**-groups if groups <= _MAX_EXACT_TOPICS else max(2.0**-groups, 2 / _MAX_SETS)


def compute_bounds(sums: Floats, sizes: Floats, level: float, seed: int = 0) -> tuple[Floats, Floats]:
    """Return the lowest and the highest mean per item that the test does not reject, for each metric.

    A mean is above a value at a one-sided `level` if the lower bound is above it.

    Args:
        sums: per topic and metric, from `sum_by_topic`.
        sizes: items of each topic, from `sum_by_topic`.
        level: one-sided, of each bound; the interval's confidence is 1 - 2 `level`.
        seed: of the sets that are drawn where there are too many to take all.

    Raises:
        ValueError: if the level is below `compute_smallest_level`.
    """
    count = len(sizes)
    parts = [(sums.T @ chosen) / (sizes @ chosen) for chosen in _draw_sets(count, level, seed)]
    means = np.concatenate(parts, axis=1)  # of the topics of each set, of shape (metrics, sets)
    rank = math.floor(level * (means.shape[1] + 1) * (1 + 1e-12))  # + 1: the empty set
    if rank < 1:
        raise ValueError(
            f"{count} topics cannot reach the level {level:g}; the smallest is {compute_smallest_level(count):g}"
        )
    ends = np.partition(means, [rank - 1, means.shape[1] - rank], axis=1)
    return np.round(ends[:, rank - 1], 12), np.round(ends[:, -rank], 12)


def compute_detectable_effect(sums: Floats, sizes: Floats, low: Floats, power: float = 0.8) -> Floats:
    """Return the minimum detectable effect of each metric: the true mean above its bound that a share of tests finds.

    The result is the distance from the mean down to the lower bound, plus a margin for the variation of both from test
    to test (Bloom 1995, "Minimum detectable effects"). The mean varies by its standard error for topics of unequal size
    (CR2, Bell and McCaffrey 2002). The distance varies because it is estimated from few topics.

    Args:
        sums: per topic and metric, from `sum_by_topic`; at least two topics.
        sizes: items of each topic, from `sum_by_topic`.
        low: the lower bounds.
        power: the share of tests.
    """
    share, mean = sizes / sizes.sum(), sums.sum(axis=0) / sizes.sum()
    error = np.sqrt(((sums - sizes[:, None] * mean) ** 2 / (1 - share)[:, None]).sum(axis=0)) / sizes.sum()
    reach = mean - low
    return np.asarray(reach + NormalDist().inv_cdf(power) * np.sqrt(error**2 + reach**2 / (2 * (len(sizes) - 1))))


def _draw_sets(count: int, level: float, seed: int) -> Iterator[Floats]:
    """Yield sets of topics as columns of 0 and 1: all but the empty set, or a random sample that is large enough."""
    if count <= _MAX_EXACT_TOPICS:
        yield ((np.arange(1, 1 << count) >> np.arange(count)[:, None]) & 1).astype(np.float64)
        return
    remaining = min(_MAX_SETS, max(_MIN_SETS, math.ceil(_TAIL_SETS / level)))
    rng = np.random.default_rng(seed)
    while remaining:
        drawn = rng.integers(0, 2, (count, min(remaining, max(1, _CHUNK // count))), dtype=np.int8)
        yield drawn[:, drawn.any(axis=0)].astype(np.float64)
        remaining -= drawn.shape[1]
