"""Metrics: known values, edge cases, and intervals that cover."""

from __future__ import annotations

import numpy as np
import pytest

from llmops.model.metrics import exact_match, interval, rouge_l, token_f1


@pytest.mark.parametrize(
    ("answer", "reference", "f1", "em"),
    [
        ("The cat sat.", "a cat sat", 1.0, 1.0),
        ("cat", "cat sat", 2 / 3, 0.0),
        ("", "", 1.0, 1.0),
        ("", "x", 0.0, 0.0),
        ("the", "an", 1.0, 1.0),
        ("no no no", "no", 0.5, 0.0),
        ("sat cat", "cat sat", 1.0, 0.0),
    ],
)
def test_known_values(answer: str, reference: str, f1: float, em: float) -> None:
    assert token_f1(answer, reference) == pytest.approx(f1)
    assert exact_match(answer, reference) == em


def test_rouge_l_sees_order() -> None:
    assert rouge_l("a b c d", "a b c d") == 1.0
    assert rouge_l("d c b a", "a b c d") < 0.5
    assert rouge_l("", "a") == 0.0


def test_interval_covers_the_mean_as_often_as_it_says() -> None:
    random = np.random.default_rng(1)
    hits = 0
    for seed in range(200):
        found = interval(list(random.normal(0.3, 0.2, 60)), 400, 0.95, seed)
        hits += found["low"] <= 0.3 <= found["high"]
    assert 180 <= hits <= 199


def test_interval_is_reproducible_and_narrow_for_equal_values() -> None:
    assert interval([0.5] * 10, 100, 0.95, 0) == {"mean": 0.5, "low": 0.5, "high": 0.5}
    values = [0.1, 0.9, 0.4]
    assert interval(values, 100, 0.95, 3) == interval(values, 100, 0.95, 3)
