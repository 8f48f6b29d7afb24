"""Histograms of durations whose percentiles are right within 1 %, however many are added up, in whatever order.

The buckets grow by a constant factor, as in DDSketch (Masson, Rim, Lee 2019, arXiv:1908.10693): bucket n holds
durations from `1 µs · G^(n-1)` to `1 µs · G^n`, and tells its middle. What is below 1 µs is 0, what is above 16 days
is 16 days. Adding up is exact, so that the same events make the same histogram in whatever order and batches they come.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

ERROR = 0.01  #: how far a percentile may be from the one of the durations themselves, as a share of it
GROWTH = (1 + ERROR) / (1 - ERROR)
SIZE = 1401
SMALLEST_NS = 1000.0
_ENTRY = np.dtype([("bucket", "<u2"), ("count", "<u4")])  #: how a bucket that is not empty is stored

Counts = npt.NDArray[np.int64]  #: one per bucket, (SIZE,)


def counted(durations_ns: Sequence[float]) -> Counts:
    """The histogram of some durations."""
    values = np.maximum(np.asarray(durations_ns, dtype=np.float64), SMALLEST_NS)
    buckets = np.ceil(np.log(values / SMALLEST_NS) / math.log(GROWTH)).astype(np.int64)
    return np.bincount(np.minimum(buckets, SIZE - 1), minlength=SIZE)


def packed(counts: Counts) -> bytes:
    """Six bytes for each bucket that is not empty."""
    (buckets,) = np.nonzero(counts)
    entries = np.empty(len(buckets), _ENTRY)
    entries["bucket"], entries["count"] = buckets, counts[buckets]
    return entries.tobytes()


def added(several: Iterable[bytes]) -> Counts:
    """The sum of packed histograms."""
    entries = np.frombuffer(b"".join(several), _ENTRY)
    return np.bincount(entries["bucket"], entries["count"], SIZE).astype(np.int64)


def percentile_ns(counts: Counts, share: float) -> float | None:
    """The duration that `share` of them do not exceed (nearest rank), within `ERROR`; None of an empty histogram."""
    running = np.cumsum(counts)
    if not running[-1]:
        return None
    bucket = int(np.searchsorted(running, max(1, math.ceil(share * int(running[-1])))))
    return SMALLEST_NS * 2 * GROWTH**bucket / (GROWTH + 1) if bucket else 0.0
