"""Is a canary worse than the champion? Asked again and again while requests come in, without crying wolf.

What is compared, over the same time:

- errors: requests that the engine did not answer, by Fisher's exact test (one-sided);
- rejections: answers that the output guard refused, by the same test;
- latency: whole answers, by a rank test within classes of prompt and answer length (van Elteren 1960), so that longer
  prompts or answers do not count as slower. A canary may be `SLOWER` times as slow without being called worse.

Looking often finds something by chance sooner or later. So there are looks only at 10, 12, 15, … requests of the
canary, and the k-th look may be wrong with a chance of `ALPHA / 3 / (k (k + 1))` for each of the three: over all looks
these add up to `ALPHA`, however long a trial goes on (a union bound, so no assumption on how the looks hang together).

Figures are counts and histograms: they take the same memory after a million requests, and those of several replicas
are added up. Pure functions, no files.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

ALPHA = 0.01  #: most that the chance may be that a canary as good as the champion is ever called worse
FIRST, GROWTH = 10, 1.2  #: requests of the canary at the first look, and from each look to the next
SLOWER = 1.2  #: how many times as slow a canary may be
FLOOR_S = 0.01  #: faster than this is all the same: nobody notices, and it is noise of the machine
STEP = 1.02  #: width of a bucket of the histogram of latencies: answers 2 % apart are told apart


@dataclass(slots=True)
class Figures:
    """What one side has done."""

    answered: int = 0
    failed: int = 0
    rejected: int = 0  #: answered, but the output guard kept the answer back
    times: dict[str, Counter[int]] = field(default_factory=dict)  #: class of lengths → bucket of latency → answers

    @property
    def requests(self) -> int:
        """Answered or failed."""
        return self.answered + self.failed

    def add(self, seconds: float, input_tokens: int, output_tokens: int) -> None:
        """Count an answer: how long it took in all, and its tokens."""
        self.answered += 1
        lengths = f"{input_tokens.bit_length()}/{output_tokens.bit_length()}"
        self.times.setdefault(lengths, Counter())[_bucket(seconds)] += 1

    def __add__(self, other: Figures) -> Figures:
        times = {
            key: self.times.get(key, Counter()) + other.times.get(key, Counter()) for key in {*self.times, *other.times}
        }
        return Figures(
            self.answered + other.answered, self.failed + other.failed, self.rejected + other.rejected, times
        )

    def quantile_s(self, share: float) -> float | None:
        """Latency that `share` of the answers do not exceed, to 2 %; None without answers."""
        counts: Counter[int] = sum(self.times.values(), Counter())
        left = share * counts.total()
        for bucket in sorted(counts):
            left -= counts[bucket]
            if left <= 0:
                return float(STEP ** (bucket + 0.5))
        return None

    def summary(self) -> dict[str, Any]:
        """Counts and latency, for people; JSON values."""
        latency = {name: self.quantile_s(share) for name, share in (("p50", 0.5), ("p95", 0.95))}
        return {
            "requests": self.requests,
            "failed": self.failed,
            "rejected": self.rejected,
            "latency_ms": {name: None if s is None else round(1000 * s, 1) for name, s in latency.items()},
        }

    def document(self) -> dict[str, Any]:
        """Everything, as JSON values."""
        times = {key: {str(bucket): n for bucket, n in counts.items()} for key, counts in self.times.items()}
        return {"answered": self.answered, "failed": self.failed, "rejected": self.rejected, "times": times}

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self:
        """What `document` gave."""
        times = {key: Counter({int(b): n for b, n in counts.items()}) for key, counts in document["times"].items()}
        return cls(**{**document, "times": times})


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a look at both sides found."""

    worse: tuple[str, ...]  #: of errors, rejections, latency
    p: Mapping[str, float]  #: for each, the chance of such a difference if the canary is no worse
    bound: float  #: below this it counts
    canary: Mapping[str, Any]  #: `Figures.summary`
    champion: Mapping[str, Any]

    def numbers(self) -> dict[str, Any]:
        """The decision's numbers, as JSON values."""
        sides = {"canary": dict(self.canary), "champion": dict(self.champion)}
        return {"worse": list(self.worse), "p": dict(self.p), "bound": self.bound, **sides}

    def text(self) -> str:
        """The decision in a sentence."""
        found = ", ".join(f"{what} (p = {self.p[what]:.1g})" for what in self.worse)
        return f"worse than the champion in {found or 'nothing'}, after {self.canary['requests']} requests"


def looks(requests: int) -> int:
    """How many looks there are up to this number of the canary's requests."""
    return 0 if requests < FIRST else 1 + int(math.log(requests / FIRST) / math.log(GROWTH) + 1e-9)


def bound(look: int) -> float:
    """What a p-value must be below at this look, the first being 1."""
    return ALPHA / 3 / (look * (look + 1))


def compare(canary: Figures, champion: Figures, bound: float, before: Figures | None = None) -> Verdict:
    """Look at both sides once.

    Args:
        canary, champion: what they did over the same time.
        bound: what a p-value must be below.
        before: what the champion did earlier; its errors and rejections count where it has done too little since,
            as when all callers happen to be the canary's. Latencies of another time say nothing, so they do not.
    """
    other = champion if champion.requests >= FIRST or before is None else champion + before
    p = {
        "errors": fisher(canary.failed, canary.requests, other.failed, other.requests),
        "rejections": fisher(canary.rejected, canary.answered, other.rejected, other.answered),
        "latency": slower(canary.times, champion.times),
    }
    worse = tuple(what for what, chance in p.items() if chance < bound)
    return Verdict(worse, p, bound, canary.summary(), other.summary())


def fisher(bad: int, total: int, other_bad: int, other_total: int) -> float:
    """Fisher's exact test, one-sided: the chance of `bad` or more of `total` if both sides are alike."""
    if not bad or not total or not other_total:
        return 1.0
    everybody, all_bad = total + other_total, bad + other_bad
    whole = _log_choose(everybody, total)
    chances = (
        math.exp(_log_choose(all_bad, k) + _log_choose(everybody - all_bad, total - k) - whole)
        for k in range(bad, min(all_bad, total) + 1)
        if total - k <= everybody - all_bad
    )
    return min(1.0, math.fsum(chances))


def slower(canary: Mapping[str, Counter[int]], champion: Mapping[str, Counter[int]]) -> float:
    """One-sided stratified rank test (van Elteren): is the canary more than `SLOWER` times as slow?

    The canary's latencies are divided by `SLOWER` first. Strata that only one side has say nothing. Ties are corrected
    for; the normal approximation errs on the cautious side in the far tail, where it matters here.
    """
    shift, score, variance = round(math.log(SLOWER) / math.log(STEP)), 0.0, 0.0
    for lengths in canary.keys() & champion.keys():
        ours = {bucket - shift: n for bucket, n in canary[lengths].items()}
        u, spread, size = _mann_whitney(ours, champion[lengths])
        score += u / (size + 1)
        variance += spread / (size + 1) ** 2
    return 0.5 * math.erfc(score / math.sqrt(2 * variance)) if variance > 0 else 1.0


def _mann_whitney(ours: Mapping[int, int], theirs: Mapping[int, int]) -> tuple[float, float, int]:
    """Mann and Whitney's U less its mean, its variance with ties, and the number of values."""
    m, n = sum(ours.values()), sum(theirs.values())
    size, below, u, ties = m + n, 0, 0.0, 0
    for bucket in sorted({*ours, *theirs}):
        here, there = ours.get(bucket, 0), theirs.get(bucket, 0)
        u += here * (below + there / 2)
        below += there
        ties += (here + there) ** 3 - (here + there)
    return u - m * n / 2, m * n / 12 * (size + 1 - ties / (size * (size - 1))), size


def _bucket(seconds: float) -> int:
    return math.floor(math.log(max(seconds, FLOOR_S)) / math.log(STEP))


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
