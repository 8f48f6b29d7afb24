"""Two sides of a trial whose callers were drawn by chance: is a difference more than this draw can explain?

Callers are drawn, not requests: what one caller sends rises and falls together, and is less evidence than its number.
So nothing is taken for independent here but the draw itself, whose chance is known. If it makes no difference on which
side a caller is, the callers' figures are fixed numbers, and only who was drawn is chance; whatever the callers are
like, and however unequal (Fisher 1935, "The Design of Experiments", the randomisation test). Pure functions.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from llmops.statistics.rates import score_interval

Floats = NDArray[np.float64]

DRAWS, _CHUNK = 4000, 500
CORRELATION = 0.05  #: that requests of one caller are taken to have at least: a caller weighs at most 20 requests


def weight(requests: float) -> float:
    """How many independent requests those of one caller are worth: 1 for one, never more than 1 / `CORRELATION`.

    It is the weight that is best where requests of a caller have this correlation (Kleinman 1973, "Proportions with
    extraneous variance").
    """
    return requests / (1 + (requests - 1) * CORRELATION)


def chance(drawn: Sequence[float], others: Sequence[float], share: float) -> float:
    """The chance that the callers drawn have so large a sum, had each been drawn with a chance of `share`.

    Estimated from draws in which high figures are likelier, each draw counted by how much less likely it really is
    (importance sampling with an exponential tilt: Siegmund 1976); so a chance of a millionth takes no more draws than
    one of a half, to some 5 %. Where everything bad is on one side it is the chance of just this draw: with few callers
    it cannot be small.

    Args:
        drawn: a figure of every caller who was drawn, high where it is bad.
        others: of everybody else; the figures of both add up to 0.
        share: the chance that a caller was drawn with, between 0 and 1.
    """
    figures = np.array([*drawn, *others], dtype=np.float64)
    scale = float(np.abs(figures).max(initial=0.0))
    if not scale or (target := math.fsum(drawn) / scale) <= 1e-9:
        return 1.0
    figures /= scale
    low, high = 0.0, 64.0
    for _ in range(30):  # until the mean of the tilted draws is what was seen
        tilt = (low + high) / 2
        low, high = (tilt, high) if figures @ _tilted(share, tilt * figures) < target else (low, tilt)
    chances = _tilted(share, tilt * figures)
    sums = np.empty(DRAWS)
    rng = np.random.default_rng(0)
    for start in range(0, DRAWS, _CHUNK):
        part = slice(start, min(start + _CHUNK, DRAWS))
        sums[part] = (rng.random((part.stop - start, len(figures))) < chances) @ figures
    # log of the mean of e to tilt times the sum, over draws as they really are
    mean = float(np.sum(np.logaddexp(math.log1p(-share), math.log(share) + tilt * figures)))
    found = np.where(sums >= target - 1e-9, np.exp(mean - tilt * sums), 0.0)
    return min(1.0, float(found.mean()))


@dataclass(frozen=True, slots=True)
class Share:
    """A share of requests over several callers, and how much evidence it is."""

    rate: float
    requests: float  #: independent requests that it is worth
    callers: int


def share_of(callers: Iterable[tuple[float, float]]) -> Share:
    """The share of (bad, all) requests of each caller, a caller weighing what `weight` says.

    What it is worth: the sum of the weights, and less where callers differ by more than chance does, by the variance
    between them (the linearised variance of a ratio over clusters: Cochran 1977, "Sampling Techniques", 6.4).
    """
    rows = [(bad / total, weight(total)) for bad, total in callers if total]
    worth = math.fsum(own for _, own in rows)
    if not worth:
        return Share(0.0, 0.0, 0)
    rate, count = math.fsum(own * bad for bad, own in rows) / worth, len(rows)
    if count > 1 and 0 < rate < 1:
        spread = math.fsum((own * (bad - rate)) ** 2 for bad, own in rows) * count / (count - 1)
        worth = min(worth, rate * (1 - rate) * worth**2 / spread) if spread else worth
    return Share(rate, worth, count)


def most_difference(ours: Share, theirs: Share, level: float) -> float:
    """The upper bound of how much larger our share is than theirs, wrong with a chance of `level`; 1 without evidence.

    The score intervals of both (Wilson 1927), joined (Newcombe 1998, method 10), with Student's t in place of the
    normal quantile, for the number of callers.
    """
    if min(ours.callers, theirs.callers) < 2:
        return 1.0
    z = _student(1 - level, min(ours.callers, theirs.callers) - 1)
    up = score_interval(ours.rate, ours.requests, z)[1] - ours.rate
    down = theirs.rate - score_interval(theirs.rate, theirs.requests, z)[0]
    return min(1.0, ours.rate - theirs.rate + math.hypot(up, down))


def _student(level: float, freedom: int) -> float:
    """The quantile of Student's t by its expansion (Abramowitz and Stegun 26.7.5), to 0.3 % from 4 degrees on."""
    z = NormalDist().inv_cdf(level)
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return math.fsum(term / float(freedom**power) for power, term in enumerate(terms))


def _tilted(share: float, exponents: Floats) -> Floats:
    """The chance of being drawn when draws are weighted by e to the exponent."""
    return 1 / (1 + (1 - share) / share * np.exp(-exponents))
