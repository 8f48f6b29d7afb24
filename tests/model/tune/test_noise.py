"""A point must beat the start by more than the noise of the validation items."""

import numpy as np
import pytest

from llmops.model.training.qlora import Hyperparameters
from llmops.model.tune.halving import Trial
from llmops.model.tune.noise import ALPHA, compute_gain

POINT = Hyperparameters(1e-4, 8, 4)


def make_trial(number: int, nats: np.ndarray) -> Trial:
    return Trial(number, POINT, {8: float(nats.sum())}, nats=tuple(nats.tolist()), trained=8)


def is_taken(rng: np.random.Generator, items: int, others: int, better: float, shift: float = 1.0) -> bool:
    """Return True if the best of `others` trials is taken. They are `better` nats per token better, with noise."""
    tokens = rng.integers(1, 40, items)
    hard = rng.gamma(2.0, 1.0, items)  # items are easy or hard for all trials alike
    start = make_trial(0, tokens * hard)
    rest = [make_trial(n + 1, tokens * (hard - better + rng.normal(0, 0.1 * shift, items))) for n in range(others)]
    best = min(rest, key=lambda t: sum(t.nats))
    return compute_gain(best, start, tokens.tolist(), others).beyond_noise


@pytest.mark.parametrize(("items", "others"), [(8, 3), (24, 1), (100, 20)])
def test_trials_no_better_than_the_start_are_seldom_taken(items: int, others: int) -> None:
    rng, runs = np.random.default_rng([items, others]), 1000
    wrong = sum(is_taken(rng, items, others, 0.0) for _ in range(runs))
    assert wrong / runs <= ALPHA + 3 * (ALPHA / runs) ** 0.5


def test_a_difference_that_all_items_show_is_taken() -> None:
    rng = np.random.default_rng(0)
    assert sum(is_taken(rng, 24, 3, 0.1) for _ in range(100)) > 90


def test_the_gain_is_that_of_the_losses_and_one_item_shows_nothing() -> None:
    tokens = [1, 3, 10]
    start, better = make_trial(0, np.array([2.0, 6.0, 20.0])), make_trial(1, np.array([1.0, 5.0, 17.0]))
    won = compute_gain(better, start, tokens, 4)
    assert won.nats == pytest.approx(28 / 14 - 23 / 14) and won.level == ALPHA / 4 and won.low < won.nats
    assert not compute_gain(make_trial(1, np.array([1.0])), make_trial(0, np.array([9.0])), [1], 1).beyond_noise
