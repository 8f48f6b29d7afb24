"""The test behind a canary: it finds what is worse, soon, and cries wolf no more often than it says."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from llmops.release.canary import ALPHA, FIRST, MEASURES, Decision, Verdict, bound, compare, decide, looks
from llmops.release.figures import Figures

Request = Callable[[random.Random, bool], tuple[bool, float, int, int]]  #: failed, seconds, tokens in, tokens out


def trial(
    draw: Request, seed: int, requests: int, share: float = 0.1, callers: int = 1000, unequal: bool = False
) -> tuple[Verdict | None, Figures, Figures]:
    """Run a trial of so many requests of sticky callers; the verdict that ended it, and what both did until then."""
    chance, canary, champion, last = random.Random(seed), Figures(), Figures(), 0
    ours = {n: chance.random() < share for n in range(callers)}
    traffic = [1 / (n + 1) if unequal else 1.0 for n in range(callers)]
    own = [chance.betavariate(0.2, 3.8) if unequal else 0.0 for _ in range(callers)]
    pace = [chance.lognormvariate(0, 0.5) if unequal else 1.0 for _ in range(callers)]
    for caller in chance.choices(range(callers), traffic, k=requests):
        failed, seconds, tokens_in, tokens_out = draw(chance, ours[caller])
        side = canary if ours[caller] else champion
        if failed or chance.random() < own[caller]:
            side.fail(str(caller))
        else:
            side.add(str(caller), seconds * pace[caller], tokens_in, tokens_out)
        look = looks(canary.requests)
        if ours[caller] and look > last:
            last = look
            verdict = compare(canary, champion, bound(look), share=share)
            if verdict.worse:
                return verdict, canary, champion
    return None, canary, champion


def request(errors: float = 0.02, factor: float = 1.0, tail: float = 0.0) -> Request:
    """Answers of very different lengths, with noise of a factor; the canary as bad as asked for."""

    def draw(chance: random.Random, ours: bool) -> tuple[bool, float, int, int]:
        tokens_in, tokens_out = int(chance.lognormvariate(4, 1)) + 1, int(chance.lognormvariate(3.5, 1)) + 1
        seconds = (0.002 * tokens_in + 0.03 * tokens_out) * chance.lognormvariate(0, 0.4)
        if ours:
            seconds *= factor * (20 if chance.random() < tail else 1)
        return chance.random() < (errors if ours else 0.02), seconds, tokens_in, tokens_out

    return draw


def side(
    name: str, callers: int, requests: int, failed: int = 0, rejected: int = 0, refused: int = 0, left: int = 0
) -> Figures:
    """So many answers and failures of so many callers, the first ones failed, the next ones rejected; and others for
    which there was no room, or that were given up."""
    made = Figures()
    for n in range(refused):
        made.refuse(f"{name} {n % callers}")
    for n in range(left):
        made.leave(f"{name} {n % callers}")
    for n in range(requests):
        if n < failed:
            made.fail(f"{name} {n % callers}")
        else:
            made.add(f"{name} {n % callers}", 1.0, 5, 5, rejected=n < failed + rejected)
    return made


def conclude(canary: Figures, champion: Figures) -> Decision:
    return decide(canary, champion, share=0.5, margin=0.02)


def test_twenty_sticky_callers_who_differ_in_everything_cry_wolf_no_more_often_than_promised() -> None:
    """Alike they are on both sides; by request one in five of such trials was pulled."""
    alarms = sum(trial(request(), seed, 1000, 0.5, 20, unequal=True)[0] is not None for seed in range(50))
    assert alarms <= 2  # 0.5 expected at most; 3 or more have a chance below 2 %


def test_a_canary_that_is_a_little_slower_is_tolerated() -> None:
    assert all(trial(request(factor=1.15), seed, 2000)[0] is None for seed in range(4))


@pytest.mark.parametrize(("what", "draw", "most"), [
    ("errors", request(errors=0.3), 60), ("latency", request(factor=5), 40), ("latency", request(factor=2), 180),
    ("slow answers", request(tail=0.1), 260),  # the median stays as it is
])  # fmt: skip
def test_what_is_worse_is_found_soon(what: str, draw: Request, most: int) -> None:
    for seed in range(4):
        verdict, canary, _ = trial(draw, seed, 6000)
        assert verdict is not None and what in verdict.worse
        assert canary.requests <= most


@pytest.mark.parametrize(("canary", "champion", "outcome"), [
    (side("a", 30, 30, failed=3), side("b", 30, 30), "inconclusive"),
    (side("a", 30, 30), side("b", 30, 30), "inconclusive"),
    (side("a", 200, 200), side("b", 200, 200), "promoted"),
    (side("a", 200, 400, rejected=40), side("b", 200, 400), "worse"),
    (side("a", 200, 400, refused=40), side("b", 200, 400), "worse"),
    (side("a", 200, 400, refused=40), side("b", 200, 400, refused=40), "inconclusive"),
    (side("a", 200, 400, left=40), side("b", 200, 400), "worse"),
    (side("a", 200, 400, left=40), side("b", 200, 400, left=40), "promoted"),
    (side("a", 200, 400, failed=9), side("b", 200, 400, failed=4), "inconclusive"),
    (side("a", 4, 5000), side("b", 10, 5000), "inconclusive"),
    (Figures(), Figures(), "inconclusive"),
])  # fmt: skip
def test_promoted_is_only_what_is_surely_within_the_margin(canary: Figures, champion: Figures, outcome: str) -> None:
    found = conclude(canary, champion)
    assert found.outcome == outcome and found.why
    assert (found.outcome == "promoted") <= (max(found.numbers["most"].values()) <= 0.02)


def test_a_canary_that_fails_the_one_who_sends_most_is_not_promoted() -> None:
    """To the test of callers it is one of hundreds: three in four of all requests fail."""
    canary, champion = side("a", 400, 40_000), side("b", 400, 40_000)
    assert conclude(canary, champion).outcome == "promoted"
    for _ in range(130_000):
        canary.fail("heavy")
    found = conclude(canary, champion)
    assert found.outcome == "inconclusive" and "76.5 points more of all requests, whoever sent them" in found.why
    assert max(found.numbers["most"].values()) < 0.02 < found.numbers["plain"]["errors"]


def test_who_was_always_cut_before_is_no_sign_of_a_bad_canary() -> None:
    """What one caller asks is cut by the guard, whichever version answers."""
    before = side("a", 1, 30, rejected=30) + side("b", 5, 200)
    canary, champion = side("a", 1, 40, rejected=40), side("b", 5, 200)
    assert compare(canary, champion, bound(1), share=0.2).worse == ("blatant",)
    assert compare(canary, champion, bound(1), share=0.2, before=before).worse == ()
    broken = canary + side("c", 2, 60, failed=60)
    assert compare(broken, champion, bound(1), share=0.2, before=before).worse == ("blatant",)
    # a canary that answers everybody is compared with what the champion did before
    assert compare(broken, Figures(), bound(1), share=0.999).worse == ()
    assert compare(broken, Figures(), bound(1), share=0.999, before=side("c", 2, 300)).worse == ("blatant",)


@pytest.mark.parametrize("callers", [1, 3])
def test_blatant_failures_of_hardly_any_callers_are_found_all_the_same(callers: int) -> None:
    for requests, failed, champion_failed, worse in ((10, 10, 0, ("blatant",)), (10, 2, 0, ()), (40, 40, 90, ())):
        canary, champion = side("a", callers, requests, failed=failed), side("b", 3, 100, failed=champion_failed)
        assert compare(canary, champion, bound(1), share=0.1).worse == worse


def test_answers_above_the_objective_are_slow_however_usual_they_are() -> None:
    canary, champion = side("a", 60, 600), side("b", 60, 600)
    for n in range(120):
        canary.add(f"a {n % 60}", 3.0, 5, 5)
    usual = compare(canary, champion, 0.001, share=0.5)
    late = compare(canary, champion, 0.001, share=0.5, objective_s=2.0)
    assert "slow answers" not in usual.worse and "slow answers" in late.worse


def test_looks_come_rarer_and_all_bounds_together_are_the_promise() -> None:
    assert [looks(n) for n in (0, FIRST - 1, FIRST, 11, 15, 10**6)] == [0, 0, 1, 1, 2, 29]
    assert len(MEASURES) * sum(bound(look) for look in range(1, 100_000)) == pytest.approx(ALPHA, rel=1e-3)
