"""The sign-flip test is exact, its interval is its own, and what it is said to find it finds."""

from itertools import product
from typing import Any

import numpy as np
import pytest

from llmops.frame.statistics import sign_flip
from llmops.frame.statistics.sign_flip import (
    compute_bounds,
    compute_detectable_effect,
    compute_smallest_level,
    sum_by_topic,
)

UNEQUAL = [1] * 10 + [3] * 10 + [8] * 6 + [30, 60, 90]


def compute_p_value(sums: Any, sizes: Any, mean: float) -> float:
    """Of all ways to turn the signs of topics, the share in which the sum is as large as it is."""
    rest = sums - sizes * mean
    return float(np.mean([np.dot(signs, rest) >= rest.sum() - 1e-9 for signs in product((1, -1), repeat=len(sizes))]))


@pytest.mark.parametrize(("seed", "level"), [(0, 0.3), (1, 0.025), (2, 0.005)])
def test_the_bounds_are_where_the_test_turns(seed: int, level: float) -> None:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 9, 9).astype(float)
    sums = rng.standard_t(2, (9, 1)) * sizes[:, None]
    (low,), (high,) = compute_bounds(sums, sizes, level)
    (wide,), _ = compute_bounds(sums, sizes, level / 2)
    assert wide <= low
    for step in (1e-6, 0.01, 1.0):
        assert compute_p_value(sums[:, 0], sizes, low - step) <= level < compute_p_value(sums[:, 0], sizes, low + step)
        assert (
            compute_p_value(-sums[:, 0], sizes, -high - step)
            <= level
            < compute_p_value(-sums[:, 0], sizes, -high + step)
        )


def test_of_equal_systems_no_more_pass_than_the_level_says() -> None:
    rng, sizes = np.random.default_rng(7), np.array(UNEQUAL, dtype=float)
    heavy = rng.standard_t(1.5, (29, 600)) * (rng.random((29, 600)) < 0.5)  # tails, and topics without a difference
    low, high = compute_bounds(heavy * sizes[:, None], sizes, 0.025)
    assert max(np.mean(low > 0), np.mean(high < 0)) <= 0.025 + 3 * 0.0064


def test_values_that_are_all_the_same_leave_no_doubt() -> None:
    low, high = compute_bounds(*sum_by_topic(np.full((40, 1), 0.1), [f"t{n // 3}" for n in range(40)]), 0.025)
    assert low == high == 0.1


def test_a_drawn_sample_of_sets_gives_nearly_what_all_of_them_do(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    sizes, sums = rng.integers(1, 5, 18).astype(float), rng.normal(size=(18, 2))
    for level in (0.025, 0.0009):
        drawn = compute_bounds(sums, sizes, level)
        monkeypatch.setattr(sign_flip, "_MAX_EXACT_TOPICS", 18)
        np.testing.assert_allclose(drawn, compute_bounds(sums, sizes, level), atol=0.05)
        monkeypatch.undo()


@pytest.mark.parametrize(("count", "smallest"), [(1, 0.5), (16, 2.0**-16), (17, 2.0**-17), (40, 4e-6)])
def test_a_level_that_so_few_topics_cannot_reach_is_an_error_that_says_so(count: int, smallest: float) -> None:
    assert compute_smallest_level(count) == pytest.approx(smallest)
    sums, sizes = np.arange(count, dtype=float)[:, None], np.ones(count)
    if count < 17:
        assert compute_bounds(sums, sizes, smallest)[0] == sums.min()
    with pytest.raises(ValueError, match=f"{count} topics cannot reach"):
        compute_bounds(sums, sizes, smallest / 10)


def test_a_difference_that_is_said_to_be_found_with_80_per_cent_is() -> None:
    rng, sizes = np.random.default_rng(6), np.array(UNEQUAL, dtype=float)
    sums = rng.normal(size=(29, 400)) * np.sqrt(sizes + 0.3 * sizes**2)[:, None]
    low, _ = compute_bounds(sums, sizes, 0.002)
    effect = np.median(compute_detectable_effect(sums, sizes, low))
    assert 0.68 <= np.mean(low + effect > 0) <= 0.92
