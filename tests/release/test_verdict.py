"""The verdict of a trial: equal versions pass, harm is found, and too little seen is never a pass."""

import random
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from llmops.release.counts import SideCounts
from llmops.release.verdict import END, LOOK, Rules, _compute_p, count_looks, judge

RULES = Rules(requests=400)


def trial(seed: int, callers: int = 24, share: float = 0.5, requests: int = 1200, **harm: float) -> tuple[str, int]:
    """Return how a trial ends, and after how many requests, where callers differ in traffic, errors and speed, and the
    guard rejects all answers to one of them. `harm` of the canary: `errors`, `slower`, `tail`, `disliked`."""
    chance, canary, champion, last = random.Random(seed), SideCounts(), SideCounts(), 0
    ours = [n % 2 == 1 if share == 0.5 else chance.random() < share for n in range(callers)]
    own = [1.0 if n == 3 else chance.betavariate(0.2, 9.8) for n in range(callers)]
    pace = [chance.lognormvariate(0, 0.5) for _ in range(callers)]
    ratings = "disliked" in harm
    for caller in chance.choices(range(callers), [1 / (n + 3) for n in range(callers)], k=requests):
        mine, name, tokens = harm if ours[caller] else {}, str(caller), int(chance.lognormvariate(3.5, 1)) + 1
        side = canary if ours[caller] else champion
        seconds = 0.03 * tokens * chance.lognormvariate(0, 0.4) * pace[caller] * mine.get("slower", 1.0)
        seconds *= 20 if chance.random() < mine.get("tail", 0.0) else 1
        if chance.random() < mine.get("errors", 0.0):
            side.count(name, "failed")
        else:
            side.add(name, seconds, 5, tokens, rejected=chance.random() < own[caller])
        if ratings:
            side.count(name, "down" if chance.random() < 0.3 + mine.get("disliked", 0.0) else "up")
        if count_looks(canary.requests) > last:
            last = count_looks(canary.requests)
            if judge(canary, champion, share, RULES, ratings=ratings).outcome == "regression":
                return "regression", canary.requests
    found = judge(canary, champion, share, RULES, ratings=ratings, end=True)
    return "better" if found.better else found.outcome, canary.requests


def test_equal_versions_are_promoted_whatever_their_callers_are_like() -> None:
    ends = [trial(seed)[0] for seed in range(30)]
    assert ends.count("no_regression") >= 28 and ends.count("regression") <= 2  # 0.7 expected at most


@pytest.mark.parametrize(("harm", "most"), [
    ({"errors": 0.15}, 1200), ({"errors": 1.0}, 10), ({"slower": 3.0}, 320), ({"tail": 0.1}, 1200),
    ({"disliked": 0.5}, 1200),
])  # fmt: skip
def test_harm_is_found(harm: dict[str, float], most: int) -> None:
    ends = [trial(seed, **harm) for seed in range(6)]
    assert [word for word, _ in ends].count("regression") >= 5 and sorted(asked for _, asked in ends)[3] <= most


@pytest.mark.parametrize(("seconds", "word"), [(1.21, "no_regression"), (1.5, "regression")])
def test_a_canary_that_is_a_little_slower_is_tolerated(seconds: float, word: str) -> None:
    canary = SideCounts()
    for n in range(400):
        canary.add(f"a {n % 50}", seconds, 5, 5)
    assert judge(canary, side("b", 50, 400), 0.5, RULES, end=True).outcome == word


def test_one_that_is_liked_is_better() -> None:
    liked = [trial(seed, disliked=-0.25)[0] for seed in range(6)]
    assert liked.count("better") >= 5 and trial(0, disliked=0.0)[0] == "no_regression"


def side(name: str, callers: int, requests: int, failed: int = 0, left: int = 0, refused: int = 0) -> SideCounts:
    """Return the counts of requests that are spread evenly over callers."""
    made = SideCounts()
    for n in range(requests):
        if n < failed:
            made.count(f"{name} {n % callers}", "failed")
        else:
            made.add(f"{name} {n % callers}", 1.0, 5, 5)
    for n in range(left):
        made.count(f"{name} {n % callers}", "left")
    for n in range(refused):
        made.count(f"{name} {n % callers}", "refused")
    return made


@pytest.mark.parametrize(("canary", "champion", "word"), [
    (side("a", 50, 400), side("b", 50, 400), "no_regression"),
    (side("a", 50, 399), side("b", 50, 400), "insufficient_data"),
    (side("a", 4, 5000), side("b", 10, 5000), "insufficient_data"),
    (side("a", 50, 5000), side("b", 4, 5000), "insufficient_data"),  # nothing to compare with
    (SideCounts(), SideCounts(), "insufficient_data"),
    (side("a", 50, 400, failed=40), side("b", 50, 400), "regression"),
    (side("a", 50, 400, refused=40), side("b", 50, 400), "regression"),
    (side("a", 50, 400, refused=40), side("b", 50, 400, refused=40), "no_regression"),
    (side("a", 50, 400, left=40), side("b", 50, 400), "regression"),  # nobody waited for the end
    (side("a", 1, 10, failed=10), side("b", 3, 100), "regression"),
    (side("a", 1, 9, failed=9), side("b", 3, 100), "insufficient_data"),
    (side("a", 1, 40, failed=40), side("b", 3, 100, failed=90), "insufficient_data"),  # both fail
    (side("a", 10, 400), side("b", 60, 400), "error"),  # no draw of a half
    (side("a", 5, 400, failed=180), side("b", 5, 400), "regression"),  # the fewest of whom harm can be found
    (side("a", 5, 400), side("b", 5, 400, failed=180), "no_regression"),
])  # fmt: skip
def test_each_verdict_has_its_reason_and_numbers(canary: SideCounts, champion: SideCounts, word: str) -> None:
    found = judge(canary, champion, 0.5, RULES, end=True)
    assert found.outcome == word and found.why
    assert found.numbers["canary"]["requests"] == canary.requests and found.numbers["bound"] in (LOOK, END)
    assert judge(canary, champion, 0.5, RULES).outcome in ("regression", "insufficient_data")  # a look promotes nothing


def test_more_corrections_than_answers_are_no_error() -> None:
    canary, champion = side("a", 50, 400), side("b", 50, 400)
    canary.callers[next(iter(canary.callers))]["corrected"] = 30  # of answers whose caller did not wait for their end
    assert judge(canary, champion, 0.5, RULES, ratings=True, end=True).outcome == "no_regression"


def test_answers_above_the_limit_are_slow_however_usual_they_are() -> None:
    canary, champion = side("a", 60, 600), side("b", 60, 600)
    for n in range(120):
        canary.add(f"a {n % 60}", 3.0, 5, 5)
    assert "slow answers" not in judge(canary, champion, 0.5, RULES, end=True).why.split("after")[0]
    late = judge(canary, champion, 0.5, replace(RULES, slow_s=2.0), end=True)
    assert late.outcome == "regression" and "slow answers" in late.why


def test_the_p_value_is_that_of_scipys_permutation_test_and_all_looks_together_keep_the_promise() -> None:
    rng = np.random.default_rng(3)
    scores = np.concatenate([rng.exponential(size=8) + 0.8, rng.exponential(size=20)])
    expected = stats.permutation_test(
        (scores[:8], scores[8:]), lambda x, y, axis: x.sum(axis=axis), vectorized=True, n_resamples=9999,
        alternative="greater", rng=1,
    ).pvalue  # fmt: skip
    assert _compute_p(scores, 8) == pytest.approx(expected, abs=0.01)
    assert [count_looks(n) for n in (0, 9, 10, 19, 20, 639, 640, 1000)] == [0, 0, 1, 1, 2, 6, 7, 7]
    assert 4 * (count_looks(1000) * LOOK + END) < 0.025
