"""Two versions against each other: equal ones are not told apart however often one looks, liked ones win."""

from __future__ import annotations

import json
import random

import pytest

from llmops.release import ab_test
from llmops.release.ab_test import BETTER, BOUND, LEVEL, Found, document, joined, look, looks, standing_of, told, winner
from llmops.release.figures import Figures


def run(seed: int, requests: int, likes: float = 0.0, failures: float = 0.0, callers: int = 60) -> dict[str, Found]:
    """A test of sticky callers who rate every third answer, looked at after every request."""
    chance, challenger, champion, last = random.Random(seed), Figures(), Figures(), 0
    ours = {n: chance.random() < 0.5 for n in range(callers)}
    taste = [chance.betavariate(4, 4) for _ in range(callers)]
    standing: dict[str, Found] = {}
    for n in chance.choices(range(callers), [1 / (n + 1) for n in range(callers)], k=requests):
        side = challenger if ours[n] else champion
        if ours[n] and chance.random() < failures:
            side.fail(str(n))
            continue
        side.add(str(n), chance.lognormvariate(0, 0.5), 5, int(chance.lognormvariate(3, 1)) + 1)
        if chance.random() < 0.33:
            up = chance.random() < taste[n] + likes * ours[n]
            side.rate(str(n), up=int(up), down=int(not up))
        number = looks(min(challenger.requests, champion.requests))
        if number > last:
            last = number
            standing = look(challenger, champion, number, share=0.5, before=Figures(), last=standing)
    return standing


def test_equal_versions_are_told_apart_no_more_often_than_promised() -> None:
    apart = sum(any(one.p < BOUND[name] for name, one in run(seed, 1500).items()) for seed in range(25))
    assert apart <= 4  # 1.25 expected at most; 5 or more have a chance below 1 %


def test_the_version_that_users_like_wins_and_the_one_that_fails_does_not() -> None:
    assert sum(winner(run(seed, 6000, likes=0.45)) == "challenger" for seed in range(6)) >= 5
    for seed in range(4):
        assert winner(run(seed, 3000, failures=0.4)) == "champion"
        assert winner(run(seed, 6000, likes=0.45, failures=0.4)) in ("mixed", "champion")


def found(p: float, side: int) -> Found:
    return Found(0.1 * side, p, side)


@pytest.mark.parametrize(("standing", "who"), [
    ({}, ""), ({"rating": found(0.5, 1)}, ""), ({"rating": found(1e-4, 1)}, "challenger"),
    ({"rating": found(1e-4, -1)}, "champion"), ({"latency": found(1e-4, -1)}, ""),
    ({"rating": found(1e-4, 1), "errors": found(1e-4, 1)}, "mixed"), ({"length": found(1e-9, 1)}, ""),
])  # fmt: skip
def test_users_words_make_a_version_win_and_anything_worse_keeps_it_from_that(
    standing: dict[str, Found], who: str
) -> None:
    assert winner(standing) == who and told(standing)


def test_a_p_value_never_rises_and_a_difference_is_todays() -> None:
    now = joined({"rating": Found(0.1, 0.5, 1)}, {"rating": Found(0.3, 0.01, -1)})
    assert now == {"rating": Found(0.1, 0.01, -1)}
    assert standing_of(json.loads(json.dumps(document(now)))) == now


def test_all_bounds_together_are_the_promise() -> None:
    assert sum(BOUND.values()) == pytest.approx(LEVEL) and BOUND.keys() == BETTER.keys()
    assert [looks(n) for n in (0, 19, 20, 29, 30)] == [0, 0, 1, 1, 2]
    assert ab_test.BETTER["length"] == 0
