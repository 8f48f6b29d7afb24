"""Which of two versions do users like better? The two answer their own callers; either may turn out better, or neither.

What is compared, caller by caller: ratings (thumbs up of all), corrections, errors, rejections, latency within classes
of lengths, and the answers' length, which is told and decides nothing. A version wins if users like it better or
correct it less, nothing of the others is found worse, and it could be promoted as a canary: liked is not yet in order.

One may look at any time and stop when one likes: the p-values are always valid (Johari et al. 2017, "Peeking at A/B
tests"). Each is the smallest of those of the looks so far, a look's p-value (`statistics.randomisation.chance`, both
ways) divided by what this look may spend of the whole; the looks come at 20, 30, 45, … requests of the smaller side,
and what they may spend adds up to 1. So the chance that any measure is ever called different between equal versions is
at most `LEVEL`, for as long as the test goes on and whatever the callers are like. Pure functions, no files.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from llmops.release.canary import SHARES, Decision, share_measure
from llmops.release.comparison import Measure, logs, residuals, scores
from llmops.release.figures import Figures
from llmops.statistics.randomisation import chance

LEVEL = 0.05  #: most that the chance may be that equal versions are ever called different in anything
FIRST, GROWTH = 20, 1.5  #: requests of the smaller side at the first look, and from each look to the next

Winner = Literal["challenger", "champion", "mixed", ""]

#: what is compared; 1: more is better, -1: less is better, 0: neither
BETTER = {"rating": 1, "corrections": -1, "errors": -1, "rejections": -1, "latency": -1, "length": 0}
WISHES = ("rating", "corrections")  #: what users say, which alone makes a version win; half of `LEVEL` is for it
BOUND = {name: LEVEL / 4 if name in WISHES else LEVEL / 8 for name in BETTER}  #: below it a p-value counts

_MEASURES: dict[str, Measure] = {
    "rating": lambda callers, ours: residuals([{"": (c.up + c.down, c.up)} for c in callers])[0],
    "corrections": lambda callers, ours: residuals([{"": (c.answered, c.corrected)} for c in callers])[0],
    "errors": share_measure(SHARES["errors"]),
    "rejections": share_measure(SHARES["rejections"]),
    "latency": lambda callers, ours: residuals(logs(callers, 0))[0],
    "length": lambda callers, ours: residuals([{"": (c.answered, c.length)} for c in callers])[0],
}


@dataclass(frozen=True, slots=True)
class Found:
    """One measure, as it stands."""

    difference: float  #: of the mean, challenger less champion: a share; of latency and length, of the logarithm
    p: float  #: always valid
    side: int  #: 1: the challenger was the higher at the look that gave `p`; -1: the lower


Standing = Mapping[str, Found]


def looks(requests: int) -> int:
    """How many looks there are up to this number of requests of the smaller side."""
    return 0 if requests < FIRST else 1 + int(math.log(requests / FIRST) / math.log(GROWTH) + 1e-9)


def look(
    challenger: Figures, champion: Figures, number: int, *, share: float, before: Figures, last: Standing
) -> dict[str, Found]:
    """Look at both sides once.

    Args:
        challenger, champion: what they did over the same time.
        number: of the look, from 1; each may be used once.
        share: of the callers, that the challenger answers.
        before: what the champion did before the test.
        last: what the look before gave.
    """
    spent, found = 6 / ((number + 5) * (number + 6)), {}  # over all looks 1
    for name, measure in _MEASURES.items():
        made = scores(challenger, champion, before, measure)
        higher = chance(made.ours, made.theirs, share)
        lower = chance([-score for score in made.ours], [-score for score in made.theirs], share)
        likely = min(1.0, 2 * min(higher, lower) / spent)
        found[name] = Found(made.difference, likely, 1 if higher < lower else -1)
    return joined(found, last)


def joined(now: Standing, earlier: Standing) -> dict[str, Found]:
    """The differences as they are now, with the smallest p-value of both."""
    best = {name: min(one, earlier.get(name, one), key=lambda found: found.p) for name, one in now.items()}
    return {name: Found(one.difference, best[name].p, best[name].side) for name, one in now.items()}


def winner(standing: Standing) -> Winner:
    """Who has won, as it stands; empty: nobody yet, mixed: each is better in something that counts."""
    votes = {name: BETTER[name] * one.side for name, one in standing.items() if BETTER[name] and one.p < BOUND[name]}
    if not votes:
        return ""
    if len(set(votes.values())) > 1:
        return "mixed"
    better = next(iter(votes.values())) > 0
    if not better:
        return "champion"
    return "challenger" if any(name in votes for name in WISHES) else ""


def decide(standing: Standing, harm: Decision) -> tuple[str, str]:
    """How a test ends (won | lost | mixed | inconclusive), and why.

    Args:
        standing: after the last look.
        harm: what `canary.decide` says of the same requests: what users like is not promoted if it may fail them.
    """
    who, why = winner(standing), told(standing)
    if who == "challenger":
        words = f"{why}; {harm.why}"
        return {"promoted": "won", "worse": "mixed", "inconclusive": "inconclusive"}[harm.outcome], words
    counts = harm.numbers["canary"]
    words = f"{why}, after {counts['requests']} requests of {counts['callers']} callers"
    return {"champion": "lost", "mixed": "mixed", "": "inconclusive"}[who], words


def document(standing: Standing) -> dict[str, Any]:
    """Everything, as JSON values."""
    return {name: {"difference": one.difference, "p": one.p, "side": one.side} for name, one in standing.items()}


def standing_of(document: Mapping[str, Any]) -> dict[str, Found]:
    """What `document` gave."""
    return {name: Found(**values) for name, values in document.items()}


def told(standing: Standing) -> str:
    """What was found, in a sentence."""
    words = {1: "higher", -1: "lower"}
    found = [f"{words[one.side]} {name} (p = {one.p:.1g})" for name, one in standing.items() if one.p < BOUND[name]]
    return f"the challenger has: {', '.join(found)}" if found else "no difference was found"
