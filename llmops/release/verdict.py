"""Judge a trial of a version on a share of the callers: pull it, promote it, or wait.

    regression         the version does worse than the champion: it is pulled at once
    no_regression      the trial has ended with enough data, and nothing was found: it is promoted
    insufficient_data  there is too little data: it stays, is pulled at the deadline, and is never promoted
    error              the counts cannot be trusted: it stays, and an alert is raised

Each measure has a value for every caller. Callers are drawn to the sides, not requests, because the requests of one
caller are alike. So the only randomness is the draw, and the test is by permutation (Fisher 1935, "The Design of
Experiments"): in how many other draws of as many callers would the version look as bad? It assumes nothing about
callers. A version that is slower by less than `STEP` is not worse.

There is a look at 10, 20, 40, … requests, and one at the end. With four measures and 7 looks before the end (1,000
requests), an equal version is pulled with a probability of at most 4 × (7 × `LOOK` + `END`) = 2.4 % (a union bound).
With few callers this test finds nothing, so there is a plain limit, too: a version is pulled if its share of failed
requests is more than `LIMIT` above the champion's. Pure functions, no files.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import combinations
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from llmops.frame.statistics.bootstrap import Floats
from llmops.release.counts import STEP, GroupCounts, SideCounts, count_requests, find_bucket, list_latencies

TrialOutcome = Literal["regression", "no_regression", "insufficient_data", "error"]

FIRST = 10  #: requests of the canary at the first look; each look comes at twice as many as the one before
LOOK, END = 0.0002, 0.0045  #: a p-value below it is a regression, at a look and at the end
LIMIT = 0.5  #: share of failed requests
SPLIT = 0.001  #: a p-value below it: so uneven a split of callers is an error
BETTER, LIKED = 0.025, "thumbs up"  #: a p-value below it: users like the version of an A/B test better
DRAWS = 10_000
CORRELATION = 0.05  #: assumed between requests of one caller, so that a caller weighs at most 20 requests
TAIL = math.log(4, STEP)  #: a slow answer takes 4 times as long as usual, in buckets
SHRINK = 3.0  #: answers of an average caller that are added to each caller's own

CallerRows = Sequence[tuple[float, float]]  #: of each caller: number of cases, and sum of their values (high is bad)


@dataclass(frozen=True, slots=True)
class Rules:
    """Conditions of a trial."""

    requests: int = 1000  #: of the canary, needed for an end
    callers: int = 5  #: on each side, needed for an end
    minutes: float = 1440  #: the deadline, after which a version with too little data is pulled
    slow_s: float = math.inf  #: slower answers count as slow, even if that is usual

    def is_past_deadline(self, trial: str) -> bool:
        """Return True if the deadline of the trial with this start has passed."""
        return datetime.now(UTC) >= datetime.fromisoformat(trial) + timedelta(minutes=self.minutes)


@dataclass(frozen=True, slots=True)
class TrialVerdict:
    """A verdict with its reason and its numbers, as JSON values."""

    outcome: TrialOutcome
    why: str
    numbers: Mapping[str, Any]
    better: bool = False  #: in an A/B test: users like the version significantly better


def count_looks(requests: int) -> int:
    """Return the number of looks up to this number of the canary's requests."""
    return (requests // FIRST).bit_length()


def has_enough(canary: SideCounts, champion: SideCounts, rules: Rules) -> bool:
    """Return True if the trial has enough requests and callers to end.

    The callers are enough if harm to all callers of the canary can be found: 5 of 10 are enough, 4 of 10 are not.
    """
    ours, theirs = len(canary.callers), len(champion.callers)
    can_find = 1 / math.comb(ours + theirs, ours) < END
    return canary.requests >= rules.requests and min(ours, theirs) >= rules.callers and can_find


def judge(
    canary: SideCounts, champion: SideCounts, share: float, rules: Rules, *, ratings: bool = False, end: bool = False
) -> TrialVerdict:
    """Judge a trial by the counts of both sides. A caller is drawn to the canary with the chance `share`.

    `ratings` adds the ratings of users, as in an A/B test. Before the `end` the only possible finding is a regression.
    """
    over = end and has_enough(canary, champion, rules)
    level, split = END if over else LOOK, _compute_split_p(canary, champion, share)
    measures = compare(canary, champion, rules, ratings)
    sides = {"canary": canary.summarize(), "champion": champion.summarize()}
    numbers = {"bound": level, "measures": measures, "split": split, **sides}
    seen = f"{canary.requests} requests of {len(canary.callers)} callers, {champion.requests} of the champion's"
    failed = _compute_failed_share(canary)
    excess = failed - _compute_failed_share(champion)
    if canary.requests >= FIRST and excess > LIMIT:
        why = f"{100 * failed:.0f} % of its requests failed, {100 * excess:.0f} points more than the champion's"
        return TrialVerdict("regression", f"{why}, after {seen}", numbers)
    harm = {name: one for name, one in measures.items() if name != LIKED}
    # The planned looks are the only ones.
    worse = {name: one for name, one in harm.items() if one["p"] < level and (over or not end)}
    if worse:
        found = ", ".join(
            f"{name} ({_format_difference(name, one['difference'])}, p = {one['p']:.1g})" for name, one in worse.items()
        )
        return TrialVerdict("regression", f"worse than the champion in {found}, after {seen}", numbers)
    if not over:
        needed = f"{rules.requests} requests and {rules.callers} callers on each side are needed"
        return TrialVerdict("insufficient_data", f"nothing was found after {seen}; {needed}", numbers)
    if split < SPLIT:
        why = f"{len(canary.callers)} callers beside {len(champion.callers)} are no draw of {100 * share:g} %"
        return TrialVerdict("error", f"{why} (p = {split:.1g}): requests or counts of a side are lost", numbers)
    why = f"nothing was found after {seen}"
    if not ratings:
        return TrialVerdict("no_regression", why, numbers)
    better = measures[LIKED]["p"] < BETTER
    words = "users like it better" if better else "users are not known to like it better"
    return TrialVerdict("no_regression", f"{words}; {why}", numbers, better)


def compare(canary: SideCounts, champion: SideCounts, rules: Rules, ratings: bool) -> dict[str, Any]:
    """Return `difference` and `p` of each measure.

    The difference is canary minus champion, of shares, or of the logarithm of latency; `STEP` is subtracted from that.

    Shares are tested by their square roots, in which a caller who always fails weighs less: of 200 versions that fail
    10 % more, 4 were missed instead of 12 (20 callers, as in `benchmarks/canary.py`). The weight of a caller is optimal
    for requests with the correlation `CORRELATION` (Kleinman 1973, "Proportions with extraneous variance").
    """
    callers, ours = [*canary.callers.values(), *champion.callers.values()], len(canary.callers)
    latency, slow = _compare_latencies(callers, ours, rules.slow_s)
    measures: dict[str, CallerRows] = {
        "errors": [(count_requests(c) - c["left"], c["failed"] + c["refused"]) for c in callers],
        "rejections": [(c["answered"], c["rejected"]) for c in callers],
        "slow answers": slow,
        "latency": latency,
    }
    if ratings:
        measures["thumbs down"] = [(c["up"] + c["down"], c["down"]) for c in callers]
        measures["corrections"] = [(c["answered"], min(c["corrected"], c["answered"])) for c in callers]
        measures[LIKED] = [(c["up"] + c["down"], c["up"]) for c in callers]
    return {name: _test_measure(np.array(rows).reshape(-1, 2), ours, name) for name, rows in measures.items()}


def _test_measure(rows: Floats, ours: int, name: str) -> dict[str, float]:
    numbers = rows[:, 0]
    weights, values = numbers / (1 + np.maximum(numbers - 1, 0) * CORRELATION), rows[:, 1] / np.maximum(numbers, 1)
    here, there = float(weights[:ours].sum()), float(weights[ours:].sum())
    if not here or not there:
        return {"difference": 0.0, "p": 1.0}
    difference = weights[:ours] @ values[:ours] / here - weights[ours:] @ values[ours:] / there
    scores = _compute_deviations(weights, values if name == "latency" else np.sqrt(values))
    p = _compute_p(scores, ours) if scores[:ours].sum() > 1e-9 else 1.0
    return {"difference": round(float(difference), 6), "p": round(p, 6)}


def _compute_deviations(weights: Floats, values: Floats) -> Floats:
    return np.asarray(weights * (values - values @ weights / weights.sum()))


def _compute_p(scores: Floats, ours: int) -> float:
    """Return the p-value: the share of draws whose scores add up to at least those of the first `ours` callers."""
    draws, exact = _draw_sides(len(scores), ours)
    reached = int((scores[draws].sum(axis=1) >= scores[:ours].sum() - 1e-9).sum())
    return reached / len(draws) if exact else (1 + reached) / (1 + len(draws))


@lru_cache(maxsize=4)
def _draw_sides(everybody: int, ours: int) -> tuple[NDArray[np.uint16], bool]:
    """Return draws of `ours` of all callers as rows of indices, and True if these are all possible draws.

    If there are more than `DRAWS` possible ones, `DRAWS` are drawn at random with a fixed seed.
    """
    if math.comb(everybody, ours) <= DRAWS:
        return np.array(list(combinations(range(everybody), ours)), dtype=np.uint16), True
    keys = np.random.default_rng(0).random((DRAWS, everybody), dtype=np.float32)
    return np.argpartition(keys, ours - 1, axis=1)[:, :ours].astype(np.uint16), False


def _compare_latencies(callers: Sequence[GroupCounts], ours: int, slow_s: float) -> tuple[CallerRows, CallerRows]:
    """Return per caller the answers with their latencies, and the requests with the number of slow ones.

    Latencies are logarithms minus the mean of the answers' class of lengths. A request is slow if it took longer than
    `slow_s`, longer than usual for class and caller by `TAIL`, or if the caller did not wait for its end. The first
    `ours` callers may be slower by `STEP`.
    """
    rows = [[(key, at - (i < ours), n) for key, at, n in list_latencies(counts)] for i, counts in enumerate(callers)]
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for row in rows:
        answers = sum(n for *_, n in row)
        for key, at, n in row:
            own = n / (1 + (answers - 1) * CORRELATION)
            sums[key][0] += own
            sums[key][1] += own * at
    means = {key: total / number for key, (number, total) in sums.items()}
    longest = find_bucket(slow_s) if slow_s < math.inf else math.inf
    latency, slow = [], []
    for counts, row in zip(callers, rows, strict=True):
        answers, residual = sum(n for *_, n in row), sum(n * (at - means[key]) for key, at, n in row)
        pace = residual / (answers + SHRINK)
        late = sum(n for key, at, n in row if at > min(longest, means[key] + pace + TAIL))
        latency.append((answers, residual * math.log(STEP)))
        slow.append((answers + counts["left"], late + counts["left"]))
    return latency, slow


def _compute_split_p(canary: SideCounts, champion: SideCounts, share: float) -> float:
    """Return the p-value of the split of callers, by the exact binomial test."""
    ours, all_ = len(canary.callers), len(canary.callers) + len(champion.callers)
    chances = [math.comb(all_, n) * share**n * (1 - share) ** (all_ - n) for n in range(all_ + 1)]
    return sum(chance for chance in chances if chance <= chances[ours] * (1 + 1e-9))


def _compute_failed_share(side: SideCounts) -> float:
    return (side.total("failed") + side.total("refused")) / max(1, side.requests)


def _format_difference(name: str, value: float) -> str:
    return f"{math.exp(value) * STEP:.2g} times" if name == "latency" else f"{100 * value:.1f} points"
