"""Slopes of days, and what of an interval survives autocorrelation."""

import numpy as np
import pytest

from llmops.monitoring.decay.slope import MIN_DAYS, estimate_slope


def test_few_days_have_no_slope_and_the_same_number_has_none_either():
    assert estimate_slope(range(MIN_DAYS - 1), [1.0] * (MIN_DAYS - 1)) is None
    assert estimate_slope(range(90), [0.4] * 90) == (0.0, 0.0, 0.0)
    assert estimate_slope([-9, -8, -7, -6, -5, -4, -3, -2, -1, 0], [0.4] * 9 + [0.3]).high >= 0  # one day is no trend


def test_a_fall_is_found_though_days_are_missing_and_odd():
    rng = np.random.default_rng(0)
    days = sorted(rng.permutation(90)[:60].tolist())
    values = [0.6 - 0.002 * day + rng.normal(0, 0.02) for day in days]
    values[5] = 0.0
    found = estimate_slope(days, values)
    assert found.low < -0.002 < found.high < 0 and found.value == pytest.approx(-0.002, rel=0.3)


@pytest.mark.parametrize(("correlation", "most"), [(0.0, 0.1), (0.6, 0.2)])
def test_noise_seldom_falls(correlation, most):
    rng = np.random.default_rng(1)
    wrong = 0
    for _ in range(100):
        values = [0.0]
        for step in rng.normal(size=89):
            values.append(correlation * values[-1] + step)
        found = estimate_slope(range(90), values)
        wrong += found.high < 0 or found.low > 0
    assert wrong / 100 <= most  # without the correction 0.35 of those that resemble the day before
