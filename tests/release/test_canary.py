"""The test behind a canary: it finds what is worse, soon, and cries wolf no more often than it says."""

from __future__ import annotations

import json
import random
from collections.abc import Callable

import pytest
from scipy import stats

from llmops.release.canary import (
    ALPHA,
    FIRST,
    Figures,
    Verdict,
    _mann_whitney,
    bound,
    compare,
    fisher,
    looks,
    slower,
)

Request = Callable[[random.Random, bool], tuple[bool, float, int, int]]  #: failed, seconds, tokens in, tokens out


def trial(
    draw: Request, seed: int, requests: int, share: float = 0.1, naive: bool = False
) -> tuple[Verdict | None, Figures]:
    """Run a trial of so many requests; the verdict that ended it, and what the canary did until then."""
    chance, canary, champion, last = random.Random(seed), Figures(), Figures(), 0
    for _ in range(requests):
        ours = chance.random() < share
        failed, seconds, tokens_in, tokens_out = draw(chance, ours)
        side = canary if ours else champion
        if failed:
            side.failed += 1
        else:
            side.add(seconds, tokens_in, tokens_out)
        look = looks(canary.requests)
        if ours and look and (naive or look > last):
            last = look
            verdict = compare(canary, champion, 0.05 if naive else bound(look))
            if verdict.worse:
                return verdict, canary
    return None, canary


def request(error_rate: float = 0.02, factor: float = 1.0, error_rate_champion: float = 0.02) -> Request:
    """Answers of very different lengths, with noise of a factor; the canary as bad as asked for."""

    def draw(chance: random.Random, ours: bool) -> tuple[bool, float, int, int]:
        tokens_in, tokens_out = int(chance.lognormvariate(4, 1)) + 1, int(chance.lognormvariate(3.5, 1)) + 1
        seconds = (0.002 * tokens_in + 0.03 * tokens_out) * chance.lognormvariate(0, 0.4) * (factor if ours else 1)
        return chance.random() < (error_rate if ours else error_rate_champion), seconds, tokens_in, tokens_out

    return draw


def test_no_more_false_alarms_than_promised_however_often_one_looks() -> None:
    alike = request(error_rate=0.05, error_rate_champion=0.05)
    alarms = sum(trial(alike, seed, 1000, share=0.3)[0] is not None for seed in range(100))
    naive = sum(trial(alike, seed, 500, share=0.3, naive=True)[0] is not None for seed in range(40))
    assert alarms <= 3  # 1 expected at most; 4 or more have a chance below 2 %
    assert naive >= 4  # the usual 5 % at each look, after each request


def test_a_canary_that_is_a_little_slower_is_tolerated() -> None:
    assert all(trial(request(factor=1.15), seed, 2000)[0] is None for seed in range(20))


@pytest.mark.parametrize(("what", "draw", "most"), [
    ("errors", request(error_rate=0.3), 60), ("latency", request(factor=5), 40), ("latency", request(factor=2), 120),
])  # fmt: skip
def test_what_is_worse_is_found_soon(what: str, draw: Request, most: int) -> None:
    for seed in range(20):
        verdict, canary = trial(draw, seed, 6000)
        assert verdict is not None and what in verdict.worse
        assert canary.requests <= most


def test_longer_prompts_and_answers_are_not_slower() -> None:
    def draw(chance: random.Random, ours: bool) -> tuple[bool, float, int, int]:
        tokens_in, tokens_out = chance.choice([(100, 20), (1000, 200)] if not ours else [(1000, 200)])
        return False, (0.002 * tokens_in + 0.03 * tokens_out) * chance.lognormvariate(0, 0.3), tokens_in, tokens_out

    assert all(trial(draw, seed, 2000)[0] is None for seed in range(20))


def test_rejections_of_the_guard_count() -> None:
    canary, champion = Figures(answered=40, rejected=12), Figures(answered=400, rejected=4)
    verdict = compare(canary, champion, bound(5))
    assert verdict.worse == ("rejections",)
    assert "rejections" in verdict.text() and json.loads(json.dumps(verdict.numbers()))["worse"] == ["rejections"]


def test_too_few_requests_of_the_champion_are_helped_out_by_those_from_before_but_for_latency() -> None:
    canary, champion, before = Figures(failed=12), Figures(), Figures(answered=300, failed=1)
    for _ in range(50):
        before.add(0.01, 10, 10)
        canary.add(9.0, 10, 10)
    assert compare(canary, champion, 0.001).worse == ()
    assert compare(canary, champion, 0.001, before).worse == ("errors",)


@pytest.mark.parametrize("table", [(3, 10, 1, 90), (1, 1, 0, 5), (10, 10, 0, 100), (5, 200, 7, 90), (2, 3, 50, 50)])
def test_fisher_is_scipys(table: tuple[int, int, int, int]) -> None:
    bad, total, other, others = table
    expected = stats.fisher_exact([[bad, total - bad], [other, others - other]], alternative="greater").pvalue
    assert fisher(*table) == pytest.approx(expected, rel=1e-9)


def test_nothing_seen_says_nothing() -> None:
    assert fisher(0, 10, 0, 10) == fisher(0, 0, 3, 4) == fisher(3, 4, 0, 0) == slower({}, {}) == 1
    assert compare(Figures(), Figures(), 1e-3).worse == ()


def test_the_rank_statistic_is_scipys() -> None:
    chance = random.Random(3)
    ours, theirs = ([chance.randrange(9) for _ in range(n)] for n in (23, 57))
    u, variance, size = _mann_whitney({v: ours.count(v) for v in ours}, {v: theirs.count(v) for v in theirs})
    expected = stats.mannwhitneyu(ours, theirs, alternative="greater", method="asymptotic", use_continuity=False)
    assert u + 23 * 57 / 2 == expected.statistic and size == 80
    assert stats.norm.sf(u / variance**0.5) == pytest.approx(expected.pvalue, rel=1e-9)


def test_looks_come_rarer_and_all_bounds_together_are_the_promise() -> None:
    assert [looks(n) for n in (0, FIRST - 1, FIRST, 11, 12, 10**6)] == [0, 0, 1, 1, 2, 64]
    assert 3 * sum(bound(look) for look in range(1, 10_000)) == pytest.approx(ALPHA, rel=1e-3)


def test_figures_of_replicas_add_up_and_survive_being_written() -> None:
    one, two = Figures(failed=1, rejected=2), Figures(failed=3)
    for n in range(1, 100):
        (one if n % 3 else two).add(n / 100, n, 5)
    both = one + two
    assert (both.answered, both.failed, both.rejected, both.requests) == (99, 4, 2, 103)
    assert both.quantile_s(0.5) == pytest.approx(0.5, rel=0.03) and both.quantile_s(0.95) == pytest.approx(
        0.94, rel=0.03
    )
    assert Figures.of(json.loads(json.dumps(both.document()))) == both
    assert Figures().summary()["latency_ms"] == {"p50": None, "p95": None}
