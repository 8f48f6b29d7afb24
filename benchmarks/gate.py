"""The gate: how often it promotes what is no better, how often over 52 attempts on one test, and what it finds.

Beside it the test that was there before: the percentile interval of a bootstrap by topic at 95 %, and no ledger. All
figures are per cent of simulated tests, those of the gate by the very function that it calls; "low" and "high" are the
bounds of the Monte-Carlo error at 95 %. Sizes are the same three to four items for each topic, or very unequal ones, or
half of all items in three topics. Differences of items go with those of their topic (correlation 0.3) and have

- light tails: normal; heavy tails: Student's t with 2.5 degrees of freedom;
- mostly zeros: six of ten answers are the same, as with token F1;
- a lean: equal on average, but a little better in most topics and worse in few (a gamma distribution, skewness -1.4).
  No system is in the other's place then: this is not A/A, and the test is approximate.

Two classifiers that are equally good are compared text by text: of 500 texts, one in twenty is right with one of them
alone, in both directions as often.

Over 52 attempts the candidates are compared with one champion on one frozen test of 29 topics, and the true difference
is zero, always. They are made anew every week, or follow a search in seven settings that climbs on the difference that
the test has shown, where the settings make half of the variance and the rest is chance.

    python benchmarks/gate.py [--quick] [--json]
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence

import numpy as np
from report import finish, parser

from llmops.frame.statistics.bootstrap import Floats
from llmops.frame.statistics.rates import compute_rate
from llmops.frame.statistics.sign_flip import compute_bounds, compute_smallest_level
from llmops.release.ledger import ALPHA

TOPICS = (10, 29, 100)
LEVEL = ALPHA / 2  #: of the first attempt, and of the old test always
SEVENTH = ALPHA / 56
ATTEMPTS = 52
MIN_EFFECT = 0.01
SPREAD = 0.2  #: standard deviation of the token F1 difference of an item
SETTINGS = 7  #: that a search has
OURS, BEFORE = "gate", "before"
_COLUMNS = 250  #: simulated tests that are judged at once

Draw = Callable[[np.random.Generator, tuple[int, ...]], Floats]
TAILS: dict[str, Draw] = {
    "light": lambda rng, shape: rng.normal(size=shape),
    "heavy": lambda rng, shape: rng.standard_t(2.5, shape) / np.sqrt(5),
    "zeros": lambda rng, shape: rng.normal(size=shape) * (rng.random(shape) < 0.4) / np.sqrt(0.4),
    "lean": lambda rng, shape: (2 - rng.gamma(2, size=shape)) / np.sqrt(2),
}


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    return parser(__file__, __doc__, "4,000 and 500 simulated tests a row, not 20,000 and 4,000").parse_args(arguments)


def main() -> None:
    """Simulate everything and print the table."""
    told = options()
    tests, worlds = (4_000, 500) if told.quick else (20_000, 4_000)
    arms: dict[str, dict[str, float]] = {}
    for topics in TOPICS:
        for kind in ("equal", "unequal", "huge"):
            for tail in TAILS:
                what = "boundary" if tail == "lean" else "A/A"
                cell(
                    arms,
                    f"{what}, {topics} topics, {kind}, {tail}",
                    lambda t=topics, k=kind, f=tail: alike(t, k, f, tests),
                )
    cell(arms, "A/A, 500 texts with a label, right or wrong", lambda: classifiers(tests))
    for stream in ("anew", "climbing"):
        cell(arms, f"{ATTEMPTS} attempts, {stream}", lambda s=stream: attempts(s, worlds))
    for topics in TOPICS:
        for points in (3, 5, 10):
            cell(arms, f"+{points} points, {topics} topics", lambda t=topics, p=points: power(t, p, tests))
    alike_rows = [figures for name, figures in arms.items() if name.startswith("A/A")]
    year, found = arms[f"{ATTEMPTS} attempts, anew"], arms["+5 points, 29 topics"]
    ratios = {}
    for arm in (OURS, BEFORE):
        rates = [row[arm] for row in alike_rows]
        ratios[f"{arm}: wrong promotions of A/A, over the nominal 2.5 %"] = float(np.mean(rates)) / 2.5
        ratios[f"{arm}: the same, the highest of {len(rates)} rows"] = max(rates) / 2.5
        ratios[f"{arm}: wrong promotions over {ATTEMPTS} attempts, over the budget of 5 %"] = year[arm] / 5
    ratios["power at +5 points with 29 topics, first attempt, over before"] = found[OURS] / found[BEFORE]
    print(f"{tests} simulated tests a row, {worlds} where there are {ATTEMPTS} attempts")
    finish(told, arms, ratios, packages=("numpy",))


def cell(arms: dict[str, dict[str, float]], name: str, measure: Callable[[], dict[str, float]]) -> None:
    """Measure a row of the table, and say how long it took."""
    began = time.monotonic()
    arms[name] = measure()
    print(f"  {name}: {time.monotonic() - began:.1f} s", file=sys.stderr, flush=True)


def sizes_of(topics: int, kind: str) -> Floats:
    """How many items each topic has."""
    if kind == "equal":
        return np.full(topics, 3.0)
    if kind == "unequal":  # log-normal: of 29 topics the largest has a fifth of all items
        return np.maximum(1, np.round(np.exp(np.random.default_rng(1).normal(1, 1, topics))))
    return np.array([2.0 * topics, topics, topics] + [4.0 * topics / (topics - 3)] * (topics - 3)).round()


def differences(rng: np.random.Generator, sizes: Floats, tail: str, tests: int) -> Floats:
    """Sums of the items' differences, of shape (topics, tests); mean 0, standard deviation `SPREAD` of an item."""
    draw, shared = TAILS[tail], 0.3
    sums = draw(rng, (len(sizes), tests)) * np.sqrt(shared) * sizes[:, None]
    for row, size in enumerate(sizes.astype(int)):
        sums[row] += draw(rng, (size, tests)).sum(axis=0) * np.sqrt(1 - shared)
    return sums * SPREAD


def passed(sums: Floats, sizes: Floats, level: float, bound: float = 0.0) -> Floats:
    """Which tests the gate passes at this level, as True and False."""
    if level < compute_smallest_level(len(sizes)):
        return np.zeros(sums.shape[1], dtype=bool)
    parts = [compute_bounds(sums[:, i : i + _COLUMNS], sizes, level)[0] for i in range(0, sums.shape[1], _COLUMNS)]
    return np.concatenate(parts or [np.zeros(0)]) > bound


def passed_before(sums: Floats, sizes: Floats, bound: float = 0.0, resamples: int = 2_000) -> Floats:
    """Which tests the percentile bootstrap by topic passes (Efron 1979), as True and False."""
    count = len(sizes)
    weights = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), resamples).astype(np.float64)
    totals, low = (weights @ sizes)[:, None], []
    for i in range(0, sums.shape[1], _COLUMNS):
        low.append(np.quantile(weights @ sums[:, i : i + _COLUMNS] / totals, LEVEL, axis=0))
    return np.concatenate(low) > bound


def alike(topics: int, kind: str, tail: str, tests: int) -> dict[str, float]:
    """Wrong promotions of candidates whose true difference is nothing, or just what it has to be above."""
    rng, sizes = np.random.default_rng(topics), sizes_of(topics, kind)
    sums = differences(rng, sizes, tail, tests)
    return {**rate(passed(sums, sizes, LEVEL)), BEFORE: 100 * float(passed_before(sums, sizes).mean())}


def classifiers(tests: int) -> dict[str, float]:
    """Wrong promotions of a classifier that is as good as the champion."""
    rng, sizes = np.random.default_rng(77), np.ones(500)
    sums = rng.choice([-1.0, 0.0, 1.0], (500, tests), p=[0.025, 0.95, 0.025])
    return {**rate(passed(sums, sizes, LEVEL)), BEFORE: 100 * float(passed_before(sums, sizes).mean())}


def power(topics: int, points: int, tests: int) -> dict[str, float]:
    """Promotions of candidates that are better by so many points, on unequal topics of mostly zeros."""
    rng, sizes = np.random.default_rng(topics + points), sizes_of(topics, "unequal")
    sums = differences(rng, sizes, "zeros", tests) + sizes[:, None] * points / 100
    late = passed(sums, sizes, SEVENTH, MIN_EFFECT)
    old = passed_before(sums, sizes, MIN_EFFECT)
    return {
        **rate(passed(sums, sizes, LEVEL, MIN_EFFECT)),
        BEFORE: 100 * float(old.mean()),
        "attempt 7": 100 * float(late.mean()),
    }


def attempts(stream: str, worlds: int) -> dict[str, float]:
    """How many frozen tests have promoted somebody after `ATTEMPTS` candidates that are no better.

    With the ledger, without it, and before.
    """
    topics = 29
    rng, sizes = np.random.default_rng(52), sizes_of(topics, "unequal")
    champion = differences(rng, sizes, "zeros", worlds)
    settings = (
        rng.normal(size=(SETTINGS, topics, worlds)) * SPREAD * np.sqrt(0.3 + 0.7 / sizes)[:, None] * sizes[:, None]
    )
    best, best_seen = np.zeros((SETTINGS, worlds)), np.full(worlds, -np.inf)
    wrong = {name: np.zeros(worlds, dtype=bool) for name in (OURS, "no ledger", BEFORE)}
    for k in range(1, ATTEMPTS + 1):
        own = differences(rng, sizes, "zeros", worlds)
        step = best + rng.normal(size=best.shape) * 0.5
        step /= np.linalg.norm(step, axis=0)
        if stream == "climbing":
            own = np.sqrt(0.5) * own + np.sqrt(0.5) * np.einsum("sw,stw->tw", step, settings)
        sums = (own - champion) / np.sqrt(2)
        seen = sums.sum(axis=0)
        best, best_seen = np.where(seen > best_seen, step, best), np.maximum(seen, best_seen)
        wrong["no ledger"] |= (once := passed(sums, sizes, LEVEL))
        wrong[BEFORE] |= passed_before(sums, sizes)
        left = np.flatnonzero(once & ~wrong[OURS])
        for level in (0.001, ALPHA / (k * (k + 1))):  # what fails at a larger level fails at a smaller one
            left = left[passed(sums[:, left], sizes, max(level, ALPHA / (k * (k + 1))))]
        wrong[OURS][left] = True
    return {
        **rate(wrong[OURS]),
        BEFORE: 100 * float(wrong[BEFORE].mean()),
        "no ledger": 100 * float(wrong["no ledger"].mean()),
    }


def rate(found: Floats) -> dict[str, float]:
    """Per cent, with its Monte-Carlo error."""
    told = compute_rate(int(found.sum()), len(found))
    return {OURS: 100 * told.rate, "low": 100 * told.low, "high": 100 * told.high}


if __name__ == "__main__":
    main()
