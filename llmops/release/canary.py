"""Is a canary worse than the champion? Asked again and again while requests come in, without crying wolf.

What is compared, over the same time and caller by caller:

- errors: requests that the engine did not answer;
- no room: requests that it had no room for;
- rejections: answers that the output guard refused;
- latency: whole answers within classes of prompt and answer length, so that longer ones do not count as slower;
- slow answers: the share above the objective, or above `comparison.TAIL` times what such answers usually take this
  caller, or given up by the caller before the end.

A canary may be `SLOWER` times as slow without being called worse. The test is `statistics.randomisation.chance`: only
the draw of the callers is taken to be chance, so that twenty callers who differ in everything cry wolf no more often
than ten thousand. It can find nothing where hardly anybody is on one side. For that there is a sixth comparison, which
takes one thing for granted: that no caller of a version in order goes without an answer more than `BLATANT` of the time
beside what the champion's callers do.

Looking often finds something by chance sooner or later. So there are looks only at 10, 15, 22, … requests of the
canary, and the chances of error that `bound` allows at each, for each of the six, add up to `ALPHA`, however long a
trial goes on (a union bound, so no assumption on how the looks hang together).

To be promoted it is not enough that nothing was found: `decide` asks for a bound of how much worse the canary can be.
Pure functions, no files.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from llmops.release.comparison import Measure, Residual, logs, residuals, scores, slow_answers
from llmops.release.figures import STEP, Counts, Figures
from llmops.statistics.randomisation import chance, most_difference, share_of, weight
from llmops.statistics.rates import wilson

ALPHA = 0.01  #: most that the chance may be that a canary as good as the champion is ever called worse
FINAL = 0.05  #: the same for the one look when a trial is concluded: not to promote is the cheaper mistake
FIRST, GROWTH = 10, 1.5  #: requests of the canary at the first look, and from each look to the next
SLOWER = STEP  #: how many times as slow a canary may be: one bucket
BLATANT = 0.25  #: share of requests without an answer that no caller of a version in order has
LEAST_CALLERS = 5  #: on each side; with fewer nothing is concluded
MEASURES = ("errors", "no room", "rejections", "latency", "slow answers", "blatant")
#: what may surely not be more than a margin: how many of how many of a caller's requests
SHARES: Mapping[str, Callable[[Counts], tuple[int, int]]] = {
    "errors": lambda c: (c.failed, c.answered + c.failed),
    "no room": lambda c: (c.refused, c.requests),
    "rejections": lambda c: (c.rejected, c.answered),
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a look at both sides found."""

    worse: tuple[str, ...]  #: of `MEASURES`
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
        callers, requests = self.canary["callers"], self.canary["requests"]
        return f"worse than the champion in {found or 'nothing'}, after {requests} requests of {callers} callers"


@dataclass(frozen=True, slots=True)
class Decision:
    """What is made of a trial at its end."""

    outcome: Literal["promoted", "worse", "inconclusive"]
    why: str
    numbers: Mapping[str, Any]


def looks(requests: int) -> int:
    """How many looks there are up to this number of the canary's requests."""
    return 0 if requests < FIRST else 1 + int(math.log(requests / FIRST) / math.log(GROWTH) + 1e-9)


def bound(look: int) -> float:
    """What a p-value must be below at this look, the first being 1.

    Each look may spend about as much as the one before, for what callers do changes little from one to the next:
    6 / ((k + 5) (k + 6)) of the whole, which adds up to 1.
    """
    return ALPHA / len(MEASURES) * 6 / ((look + 5) * (look + 6))


def compare(
    canary: Figures,
    champion: Figures,
    bound: float,
    *,
    share: float,
    before: Figures | None = None,
    objective_s: float = math.inf,
) -> Verdict:
    """Look at both sides once.

    Args:
        canary, champion: what they did over the same time.
        bound: what a p-value must be below.
        share: of the callers, that the canary answers.
        before: what the champion did earlier.
        objective_s: what an answer may take, in seconds.
    """
    earlier = before or Figures()
    measures: tuple[Measure, ...] = (
        *(share_measure(bad_of) for bad_of in SHARES.values()),
        lambda callers, ours: residuals(logs(callers, ours))[0],
        lambda callers, ours: slow_answers(callers, ours, objective_s),
    )
    found = [scores(canary, champion, earlier, measure) for measure in measures]
    chances = [chance(one.ours, one.theirs, share) for one in found]
    p = dict(zip(MEASURES, [*chances, blatant(canary, champion, earlier)], strict=True))
    worse = tuple(what for what, likely in p.items() if likely < bound)
    return Verdict(worse, p, bound, canary.summary(), champion.summary())


def decide(
    canary: Figures,
    champion: Figures,
    *,
    share: float,
    margin: float,
    before: Figures | None = None,
    objective_s: float = math.inf,
) -> Decision:
    """Conclude a trial: promoted only if all of `SHARES` are surely within the margin and nothing is worse.

    What is sure is so of callers, none of whom weighs much. So that one who sends most of the requests is not left
    alone with failures, the plain shares of all requests are to be within the margin, too.

    Args:
        margin: how much larger the canary's `SHARES` may be.
        canary, champion, share, before, objective_s: see `compare`.
    """
    level = FINAL / len(MEASURES)
    found = compare(canary, champion, level, share=share, before=before, objective_s=objective_s)
    most, plain = {}, {}
    for what, bad_of in SHARES.items():
        ours, theirs = ([bad_of(c) for c in side.callers.values()] for side in (canary, champion))
        most[what] = most_difference(share_of(ours), share_of(theirs), FINAL)
        plain[what] = _plain(ours) - _plain(theirs)
    numbers = {**found.numbers(), "margin": margin, "most": most, "plain": plain}
    if found.worse:
        return Decision("worse", found.text(), numbers)
    side, fewest = min(("canary", len(canary.callers)), ("champion", len(champion.callers)), key=lambda one: one[1])
    if fewest < LEAST_CALLERS:
        why = f"the {side} had {fewest} callers; with fewer than {LEAST_CALLERS} nothing can be said of callers"
        return Decision("inconclusive", why, numbers)
    words = ", ".join(f"{what} at most {100 * more:.1f} points more" for what, more in most.items())
    words += f" than the champion's, after {canary.requests} requests of {len(canary.callers)} callers"
    if max(most.values()) > margin:
        return Decision("inconclusive", f"{words}; {100 * margin:g} are allowed, more requests may tell", numbers)
    what, more = max(plain.items(), key=lambda one: one[1])
    if more > margin:
        why = f"{what} {100 * more:.1f} points more of all requests, whoever sent them; {100 * margin:g} are allowed"
        return Decision("inconclusive", f"{words}; {why}", numbers)
    return Decision("promoted", words, numbers)


def could_be_sure(canary: Figures, champion: Figures, margin: float) -> bool:
    """Whether there are requests enough to be sure of the margin if none of them failed; how many did is not looked at,
    so that waiting for it does not make a lucky moment likelier."""
    ours, theirs = (share_of([(0, c.requests) for c in side.callers.values()]) for side in (canary, champion))
    return min(ours.callers, theirs.callers) >= LEAST_CALLERS and most_difference(ours, theirs, FINAL) <= margin


def blatant(canary: Figures, champion: Figures, before: Figures) -> float:
    """At most the chance of so many requests without an answer to show, if no caller has more than `BLATANT` of them
    beside what the champion's callers have at most (Wilson's bound), or what the caller itself had before.

    Chernoff's bound of a binomial tail, a caller weighing what `weight` says: as the weight is no more than the number
    of its requests, it stays a bound; and as the tail is concave in what is usual, so does the mean over the callers.
    """
    rows = {key: _unanswered(counts) for key, counts in canary.callers.items()}
    worth, rate = math.fsum(weight(n) for _, n in rows.values() if n), share_of(rows.values()).rate
    if not worth:
        return 1.0
    others = [_unanswered(counts) for counts in (champion + before).callers.values()]
    everybody, own = wilson(sum(bad for bad, _ in others), sum(n for _, n in others)).high, 0.0
    for key, (_, n) in rows.items():
        earlier = _plain([_unanswered(before.callers.get(key, Counts()))])
        own += weight(n) * min(1.0, BLATANT + max(everybody, earlier)) if n else 0.0
    usual = own / worth
    if rate <= usual:
        return 1.0
    rest = (1 - rate) * math.log((1 - rate) / (1 - usual)) if rate < 1 else 0.0
    return math.exp(-worth * (rate * math.log(rate / usual) + rest))


def _unanswered(counts: Counts) -> tuple[int, int]:
    """Requests without an answer, of those that the engine took and nobody gave up."""
    return counts.failed + counts.rejected, counts.answered + counts.failed


def share_measure(bad_of: Callable[[Counts], tuple[int, int]]) -> Measure:
    """The measure of a share: how many of how many of a caller's requests, as in `SHARES`."""

    def measure(callers: Sequence[Counts], ours: int) -> list[Residual]:
        rows = [bad_of(counts) for counts in callers]
        return residuals([{"": (n, bad)} for bad, n in rows])[0]

    return measure


def _plain(rows: Sequence[tuple[int, int]]) -> float:
    """The share of all requests, each of which counts alike."""
    bad, total = (sum(column) for column in zip(*rows, strict=True)) if rows else (0, 0)
    return bad / total if total else 0.0
