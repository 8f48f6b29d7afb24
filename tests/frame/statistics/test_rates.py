"""Shares with their Wilson intervals."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.frame.statistics.rates import compute_rate


@given(st.integers(0, 400), st.integers(0, 400))
def test_wilson_holds_the_share_within_bounds(a: int, b: int) -> None:
    count, total = min(a, b), max(a, b)
    rate = compute_rate(count, total)
    assert 0 <= rate.low <= rate.rate <= rate.high <= 1
    assert not math.isnan(rate.low)


def test_wilson_known_value() -> None:
    rate = compute_rate(1, 10)  # Newcombe 1998, method 3
    assert (round(rate.low, 4), round(rate.high, 4)) == (0.0179, 0.4042)
    assert compute_rate(0, 0).high == 1
    with pytest.raises(ValueError, match="2 of 1"):
        compute_rate(2, 1)
