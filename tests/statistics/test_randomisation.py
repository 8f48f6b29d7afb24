"""The test of two sides whose callers were drawn: it holds for few and for unequal ones."""

from __future__ import annotations

import itertools
import math
import random

import pytest
from scipy import stats

from llmops.statistics.randomisation import Share, chance, most_difference, share_of, weight


def exact(drawn: list[float], others: list[float], share: float) -> float:
    """By going through all draws."""
    figures, target = [*drawn, *others], sum(drawn)
    found = 0.0
    for draw in itertools.product((0, 1), repeat=len(figures)):
        if sum(f for f, d in zip(figures, draw, strict=True) if d) >= target - 1e-9:
            found += share ** sum(draw) * (1 - share) ** (len(draw) - sum(draw))
    return found


@pytest.mark.parametrize(("share", "seed"), [(0.1, 0), (0.5, 1), (0.9, 2)])
def test_the_chance_is_that_of_all_draws_gone_through(share: float, seed: int) -> None:
    rng = random.Random(seed)
    figures = [rng.lognormvariate(0, 1) for _ in range(12)]
    mean = sum(figures) / len(figures)
    figures = sorted((f - mean for f in figures), reverse=True)
    for drawn in (3, 6):
        sides = figures[:drawn], figures[drawn:]
        assert chance(*sides, share) == pytest.approx(exact(*sides, share), rel=0.15)


def test_with_few_callers_it_cannot_be_small() -> None:
    figures = [1.0, 1.0, *[-2 / 18] * 18]  # both bad ones of twenty were drawn, and nobody else
    assert chance(figures[:2], figures[2:], 0.1) == pytest.approx(0.1**2 * 0.9**18, rel=0.1)
    assert chance([1.0], [-1.0], 0.5) == pytest.approx(0.25, rel=0.1)


def test_nothing_to_compare_is_no_evidence() -> None:
    assert chance([], [], 0.5) == chance([0.0], [0.0], 0.5) == chance([-1.0], [1.0], 0.5) == 1.0


def test_a_caller_weighs_no_more_than_twenty_requests() -> None:
    assert weight(1) == 1 and weight(10**9) == pytest.approx(20) and weight(5) < 5


def test_callers_that_differ_are_less_evidence() -> None:
    alike, apart = share_of([(10, 100)] * 10), share_of([(0, 100)] * 9 + [(100, 100)])
    assert [alike.rate, apart.rate] == pytest.approx([0.1, 0.1])
    assert apart.requests < 10 < alike.requests and alike.callers == 10
    assert share_of([]) == share_of([(0, 0)]) == Share(0.0, 0.0, 0)


def test_the_bound_of_a_difference_is_that_of_newcombe() -> None:
    """Of many callers with a request each it is the usual one."""
    ours, theirs = [(int(n < 56), 1) for n in range(70)], [(int(n < 48), 1) for n in range(80)]
    z = stats.t.ppf(0.975, 69)

    def wilson(p: float, n: int) -> tuple[float, float]:
        half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return (p + z * z / (2 * n) - half) / (1 + z * z / n), (p + z * z / (2 * n) + half) / (1 + z * z / n)

    expected = 0.2 + math.hypot(wilson(0.8, 70)[1] - 0.8, 0.6 - wilson(0.6, 80)[0])
    found = most_difference(share_of(ours), share_of(theirs), 0.025)
    assert found == pytest.approx(expected, rel=0.02)  # callers' own variance has n - 1
    assert most_difference(share_of([(0, 50)]), share_of(theirs), 0.025) == 1.0
