"""Shares with their confidence intervals."""

import math
from dataclasses import dataclass
from statistics import NormalDist


@dataclass(frozen=True, slots=True)
class Rate:
    """`count` of `total`, with the Wilson interval of the share."""

    count: int
    total: int
    rate: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.count} of {self.total} ({self.rate:.1%}, 95% interval {self.low:.1%} to {self.high:.1%})"


def compute_rate(count: int, total: int, confidence: float = 0.95) -> Rate:
    """Return the share of `count` in `total` with its score interval (Wilson 1927), which is valid near 0 and 1, too.

    If `total` is 0, the interval is 0 to 1.

    Raises:
        ValueError: unless 0 <= count <= total.
    """
    if not 0 <= count <= total:
        raise ValueError(f"{count} of {total} is no share")
    if total == 0:
        return Rate(0, 0, 0.0, 0.0, 1.0)
    share = count / total
    low, high = compute_score_interval(share, total, NormalDist().inv_cdf(0.5 + confidence / 2))
    low = 0.0 if count == 0 else max(0.0, low)
    high = 1.0 if count == total else min(1.0, high)
    return Rate(count, total, share, low, high)


def compute_score_interval(share: float, total: float, z: float) -> tuple[float, float]:
    """Return Wilson's bounds, `z` standard errors away, of a share that was seen in `total` independent cases."""
    weight = 1 + z * z / total
    middle = (share + z * z / (2 * total)) / weight
    half = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total)) / weight
    return middle - half, middle + half
