"""Canaries and A/B tests: how often equal versions are promoted, how often worse ones are pulled, and how soon.

Traffic is made up, decisions are those of the code that serves: callers keep to their side, some send far more than
others (as 1, 1/2, 1/3, …), and each has failures and a speed of its own (a beta distribution with a correlation of 0.1
within a caller; a lognormal one of 0.5). Answers have very different lengths, and the time for one varies by a factor
of about 1.5 for no reason. A trial ends after 1,000 requests of the canary, with at least 5 callers on each side; its
deadline comes after 30,000 requests of both. Thumbs of an A/B test are given to one answer in five.

The peer is the test that takes every request for independent: Fisher's for errors and van Elteren's ranks for latency,
with the bounds of looks that add up to 1 %, and "not significantly worse" as the rule to promote.

    python benchmarks/canary.py [--quick] [--json]
"""

from __future__ import annotations

import argparse
import math
import os
import random
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # each process has a core, and more threads only hinder
sys.path.insert(0, str(Path(__file__).parents[1]))  # or serving.py beside this file would hide the package

from report import divided, finish, parser  # noqa: E402

from llmops.release.counts import SideCounts  # noqa: E402
from llmops.release.verdict import Rules, count_looks, judge  # noqa: E402

RULES, DEADLINE, CORRELATION, SPEEDS, NOISE, PEER_ALPHA = Rules(), 30_000, 0.1, 0.5, 0.4, 0.01
OURS, PEER = "by caller", "by request"


@dataclass(frozen=True, slots=True)
class Scenario:
    """What callers and a canary are like."""

    callers: int = 20
    unequal: bool = True
    share: float = 0.5
    errors: float = 0.01  #: of the champion
    more_errors: float = 0.0  #: of the canary
    slower: float = 1.0  #: every answer of the canary takes so many times as long
    tail: float = 0.0  #: share of its answers that take 20 times as long
    cut: bool = False  #: the guard rejects every answer to one of them, whichever version it is of
    liked: float | None = None  #: in an A/B test: how many more thumbs up the version gets, as a share


@dataclass(frozen=True, slots=True)
class Caller:
    """One who sends requests."""

    name: str
    traffic: float
    cut: bool
    errors: float
    pace: float
    likes: float
    drawn: bool


@dataclass(slots=True)
class Plain:
    """What the peer counts of one side."""

    answered: int = 0
    failed: int = 0
    times: dict[tuple[int, int], Counter[int]] = field(default_factory=dict)


End = tuple[str, int]  #: outcome, and requests of the canary until then

SCENARIOS: dict[str, Scenario] = {
    "A/A, 20 callers, equal": Scenario(unequal=False),
    "A/A, 20 callers, Zipf": Scenario(),
    "A/A, 20 callers, Zipf, 5 % errors": Scenario(errors=0.05),
    "A/A, 20 callers, Zipf, one always cut": Scenario(cut=True),
    "A/A, 200 callers, Zipf": Scenario(callers=200, share=0.1),
    "A/A, 20 callers, Zipf, 2 on the canary": Scenario(share=0.1),
    "A/A, 5 callers, 1 on the canary, one always cut": Scenario(callers=5, share=0.2, cut=True),
    "10 % fail, 20 callers": Scenario(more_errors=0.1),
    "10 % fail, 20 callers, one always cut": Scenario(more_errors=0.1, cut=True),
    "10 % fail, 200 callers": Scenario(callers=200, share=0.1, more_errors=0.1),
    "errors 1 % to 5 %, 20 callers": Scenario(more_errors=0.04),
    "errors 1 % to 5 %, 200 callers": Scenario(callers=200, share=0.3, more_errors=0.04),
    "5 % of answers 20 times as slow, 20 callers": Scenario(tail=0.05),
    "5 % of answers 20 times as slow, 200 callers": Scenario(callers=200, share=0.1, tail=0.05),
    "3 times as slow, 20 callers": Scenario(slower=3.0),
    "3 times as slow, 200 callers": Scenario(callers=200, share=0.1, slower=3.0),
    "all fail, 3 callers, 1 on the canary": Scenario(callers=3, share=0.33, more_errors=1.0),
    "A/B, alike, 40 callers": Scenario(callers=40, liked=0.0),
    "A/B, 30 points more thumbs up, 40 callers": Scenario(callers=40, liked=0.3),
    "A/B, 30 points fewer thumbs up, 40 callers": Scenario(callers=40, liked=-0.3),
}


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the command line."""
    return parser(__file__, __doc__, "60 trials of everything, 300 of equal versions, not 300 and 1,000").parse_args(
        arguments
    )


def main() -> None:
    """Run every scenario and print the table."""
    told = options()
    some, many = (60, 300) if told.quick else (300, 1000)
    arms: dict[str, dict[str, float]] = {}
    with ProcessPoolExecutor() as pool:
        for name, scenario in SCENARIOS.items():
            number = many if name.startswith("A/A") else some
            tests = {OURS: ours} if scenario.liked is not None else {OURS: ours, PEER: peer}
            for test, run in tests.items():
                ends = list(pool.map(partial(run, scenario), range(number), chunksize=10))
                arms[f"{test}: {name}"] = summary(ends)
                print(f"{test}: {name}: {dict(Counter(outcome for outcome, _ in ends))}", flush=True)
    claims = {
        f"{figure}, {name}, {PEER} over {OURS}": ((f"{PEER}: {name}", figure), (f"{OURS}: {name}", figure))
        for figure, name in (
            ("requests, median", "3 times as slow, 200 callers"), ("requests, median", "10 % fail, 200 callers"),
        )
    }  # fmt: skip
    finish(told, arms, divided(arms, claims))


def summary(ends: Sequence[End]) -> dict[str, float]:
    """Return how trials ended, in per cent, and how many requests of the canary it took to pull it.

    `promoted, of enough %` is the share of the trials that saw enough to end.
    """
    outcomes = Counter(outcome for outcome, _ in ends)
    pulled = sorted(requests for outcome, requests in ends if outcome == "regression")
    names = {"pulled": "regression", "promoted": "promoted", "not liked": "not liked", "error": "error"}
    shares = {f"{name} %": 100 * outcomes[outcome] / len(ends) for name, outcome in names.items()}
    shares["insufficient %"] = 100 * outcomes["insufficient_data"] / len(ends)
    if seen := len(ends) - outcomes["insufficient_data"]:
        shares["promoted, of enough %"] = 100 * outcomes["promoted"] / seen
    quantiles = {"requests, median": 0.5, "requests, 9 in 10": 0.9} if pulled else {}
    return {
        "trials": len(ends),
        **shares,
        **{name: pulled[min(len(pulled) - 1, int(q * len(pulled)))] for name, q in quantiles.items()},
    }


def ours(scenario: Scenario, seed: int) -> End:
    """Run a trial as the app and `rollout.conclude` decide it."""
    canary, champion, last, asked = SideCounts(), SideCounts(), 0, 0
    chance = random.Random(seed)
    rules = {"share": scenario.share, "rules": RULES, "ratings": scenario.liked is not None}
    for caller in requests(callers(scenario, chance), chance):
        side = canary if caller.drawn else champion
        note(side, caller, *answer(caller, scenario, chance))
        if scenario.liked is not None and chance.random() < 0.2:
            up = chance.random() < min(1.0, caller.likes + scenario.liked * caller.drawn)
            side.count(caller.name, "up" if up else "down")
        if not caller.drawn:
            continue
        asked += 1
        if (look := count_looks(asked)) > last:
            last = look
            if judge(canary, champion, **rules).outcome == "regression":
                return "regression", asked
        if asked >= RULES.requests:
            break
    end = judge(canary, champion, **rules, end=True)
    if end.outcome != "no_regression":
        return end.outcome, asked
    return "promoted" if scenario.liked is None or end.better else "not liked", asked


def peer(scenario: Scenario, seed: int) -> End:
    """Run the same trial, every request for itself."""
    canary, champion, last = Plain(), Plain(), 0
    chance = random.Random(seed)
    for caller in requests(callers(scenario, chance), chance):
        side = canary if caller.drawn else champion
        failed, seconds, tokens_in, tokens_out = answer(caller, scenario, chance)
        if failed or caller.cut:
            side.failed += 1
        else:
            side.answered += 1
            key = (tokens_in.bit_length(), tokens_out.bit_length())
            side.times.setdefault(key, Counter())[math.floor(math.log(seconds) / math.log(1.02))] += 1
        asked = canary.answered + canary.failed
        look = 0 if asked < 10 else 1 + int(math.log(asked / 10) / math.log(1.2) + 1e-9)
        if caller.drawn and look > last:
            last = look
            if not_alike(canary, champion) < PEER_ALPHA / 3 / (look * (look + 1)):
                return "regression", asked
        if asked >= RULES.requests:
            break
    asked, others = canary.answered + canary.failed, champion.answered + champion.failed
    if min(asked, others) < 30:
        return "insufficient_data", asked
    return ("regression" if not_alike(canary, champion) < 0.05 else "promoted"), asked


def callers(scenario: Scenario, chance: random.Random) -> list[Caller]:
    """Return the callers of a scenario, each drawn to the canary or not; at least one on each side."""
    ones, tight = scenario.errors, 1 / CORRELATION - 1
    while True:
        made = [
            Caller(
                str(n),
                1 / (n + 1) if scenario.unequal else 1.0,
                scenario.cut and n == 2,
                chance.betavariate(ones * tight, (1 - ones) * tight),
                chance.lognormvariate(0, SPEEDS),
                chance.betavariate(6, 4),
                chance.random() < scenario.share,
            )
            for n in range(scenario.callers)
        ]
        if 0 < sum(caller.drawn for caller in made) < scenario.callers:
            return made


def requests(who: Sequence[Caller], chance: random.Random) -> Iterator[Caller]:
    """Yield who asks, one after another, until the deadline."""
    sums = list(accumulate(caller.traffic for caller in who))
    for _ in range(DEADLINE):
        yield chance.choices(who, cum_weights=sums)[0]


def answer(caller: Caller, scenario: Scenario, chance: random.Random) -> tuple[bool, float, int, int]:
    """Return a caller's answer: a failure or not, seconds, tokens in and out."""
    errors = caller.errors
    if caller.drawn:
        errors = 1 - (1 - errors) * (1 - scenario.more_errors)
    tokens_in, tokens_out = int(chance.lognormvariate(4, 1)) + 1, int(chance.lognormvariate(3.5, 1)) + 1
    seconds = (0.002 * tokens_in + 0.03 * tokens_out) * chance.lognormvariate(0, NOISE) * caller.pace
    if caller.drawn:
        seconds *= scenario.slower * (20 if chance.random() < scenario.tail else 1)
    return chance.random() < errors, seconds, tokens_in, tokens_out


def note(side: SideCounts, caller: Caller, failed: bool, seconds: float, tokens_in: int, tokens_out: int) -> None:
    """Count a request as the app does."""
    if failed:
        side.count(caller.name, "failed")
    else:
        side.add(caller.name, seconds, tokens_in, tokens_out, rejected=caller.cut)


def not_alike(canary: Plain, champion: Plain) -> float:
    """Return the smaller p-value of the peer's two tests."""
    failed = fisher(
        canary.failed, canary.answered + canary.failed, champion.failed, champion.answered + champion.failed
    )
    return min(failed, slower(canary.times, champion.times))


def fisher(bad: int, total: int, other_bad: int, other_total: int) -> float:
    """Return the p-value of Fisher's exact test, one-sided."""
    from scipy.stats import hypergeom

    if not bad or not other_total:
        return 1.0
    return float(hypergeom.sf(bad - 1, total + other_total, bad + other_bad, total))


def slower(canary: Mapping[tuple[int, int], Counter[int]], champion: Mapping[tuple[int, int], Counter[int]]) -> float:
    """Return the p-value of van Elteren's stratified rank test, one-sided, the canary's latencies divided by 1.2."""
    shift, score, variance = round(math.log(1.2) / math.log(1.02)), 0.0, 0.0
    for lengths in canary.keys() & champion.keys():
        ours = {bucket - shift: n for bucket, n in canary[lengths].items()}
        theirs = champion[lengths]
        m, n = sum(ours.values()), sum(theirs.values())
        below, u, ties = 0, 0.0, 0
        for bucket in sorted({*ours, *theirs}):
            here, there = ours.get(bucket, 0), theirs.get(bucket, 0)
            u += here * (below + there / 2)
            below += there
            ties += (here + there) ** 3 - (here + there)
        size = m + n
        score += (u - m * n / 2) / (size + 1)
        variance += m * n / 12 * (size + 1 - ties / (size * (size - 1))) / (size + 1) ** 2
    return 0.5 * math.erfc(score / math.sqrt(2 * variance)) if variance > 0 else 1.0


if __name__ == "__main__":
    main()
