"""What speaks against one side of a trial in each of its callers: the figures that the tests of a canary and of an A/B
test compare.

A caller has figures in classes (of lengths of prompt and answer), of which the mean of everybody in the class is taken;
what is left is a caller's residual. What a residual from before the trial foretells is taken off, too (Deng et al.
2013, "Improving the sensitivity of online controlled experiments by utilizing pre-experiment data", CUPED). Both are
done alike to both sides, so the draw of the callers stays what alone is chance. Pure functions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from llmops.release.figures import STEP, Counts, Figures, bucket
from llmops.statistics.randomisation import weight

SHRINK = 3.0  #: answers of an average caller that a caller's own are thought of together with
TAIL = 4.0  #: a slow answer takes so many times as long as usual

Row = dict[str, tuple[float, float]]  #: of a caller: class → how many, and the sum of their figures
Residual = tuple[float, float]  #: of a caller: how many, and the sum of their figures less the means of their classes
Measure = Callable[[Sequence[Counts], int], list[Residual]]  #: of the callers, the first so many of them being ours


@dataclass(frozen=True, slots=True)
class Scores:
    """What speaks for higher figures of ours in each caller, and in each of theirs; they add up to 0."""

    ours: list[float]
    theirs: list[float]
    difference: float  #: of the mean figures, ours less theirs, a caller weighing what `weight` says


def scores(ours: Figures, theirs: Figures, before: Figures, measure: Measure) -> Scores:
    """What speaks for higher figures on our side in each caller.

    Args:
        ours, theirs: both sides, over the same time.
        before: what the callers got before the trial, all from one version.
        measure: the residuals of callers.
    """
    keys, split = [*ours.callers, *theirs.callers], len(ours.callers)
    found = measure([*ours.callers.values(), *theirs.callers.values()], split)
    earlier = measure([before.callers.get(key, Counts()) for key in keys], 0)
    weights = [weight(n) if n else 0.0 for n, _ in found]
    now = _centred([total / n if n else 0.0 for n, total in found], weights)
    then = _centred([total / (n + SHRINK) for n, total in earlier], weights)
    spread = math.fsum(own * x * x for own, x in zip(weights, then, strict=True))
    slope = math.fsum(own * x * y for own, x, y in zip(weights, then, now, strict=True)) / spread if spread else 0.0
    made = [own * (y - slope * x) for own, x, y in zip(weights, then, now, strict=True)]
    here, there = math.fsum(weights[:split]), math.fsum(weights[split:])
    difference = math.fsum(made[:split]) / here - math.fsum(made[split:]) / there if here and there else 0.0
    return Scores(made[:split], made[split:], difference)


def _centred(values: list[float], weights: list[float]) -> list[float]:
    everything = math.fsum(weights)
    mean = math.fsum(own * value for own, value in zip(weights, values, strict=True)) / everything if everything else 0
    return [value - mean for value in values]


def residuals(rows: Sequence[Row]) -> tuple[list[Residual], dict[str, float]]:
    """What each caller's figures add up to beyond the means of their classes, and these means, in which a caller weighs
    what `weight` says."""
    sums: dict[str, tuple[float, float]] = {}
    for row in rows:
        requests = sum(n for n, _ in row.values())
        own = weight(requests) / requests if requests else 0.0
        for key, (n, total) in row.items():
            number, figures = sums.get(key, (0.0, 0.0))
            sums[key] = number + own * n, figures + own * total
    means = {key: figures / number for key, (number, figures) in sums.items() if number}
    return [
        (sum(n for n, _ in row.values()), math.fsum(total - n * means.get(key, 0.0) for key, (n, total) in row.items()))
        for row in rows
    ], means


def logs(callers: Sequence[Counts], ours: int) -> list[Row]:
    """Class of lengths → answers, and the sum of the logarithms of their latencies; the first `ours` are the canary's,
    and are divided by `SLOWER`."""
    return [
        {
            key: (times.total(), math.log(STEP) * sum(n * (at + 0.5 - (i < ours)) for at, n in times.items()))
            for key, times in counts.times.items()
        }
        for i, counts in enumerate(callers)
    ]


def slow_answers(callers: Sequence[Counts], ours: int, objective_s: float) -> list[Residual]:
    """Slow answers of each caller: what is usual is the mean of their class and how slow the caller's are in all. One
    that the caller gave up is a slow one: nobody waited for its end."""
    found, means = residuals(logs(callers, ours))
    rows: list[Row] = []
    for i, (counts, (answers, residual)) in enumerate(zip(callers, found, strict=True)):
        own, slow = residual / (answers + SHRINK), 0
        for key, times in counts.times.items():
            usual_s = math.exp(means[key] + own)
            first = bucket(min(objective_s, TAIL * usual_s)) + (i < ours)
            slow += sum(n for at, n in times.items() if at > first)
        rows.append({"": (counts.answered + counts.left, slow + counts.left)})
    return residuals(rows)[0]
