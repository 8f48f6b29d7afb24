"""Histograms of durations, with percentiles accurate to 1 %. They can be added in any order.

The buckets grow by a constant factor, as in DDSketch (Masson, Rim, Lee 2019, arXiv:1908.10693). Bucket n holds
durations from `1 µs · G^(n-1)` to `1 µs · G^n` and reports its middle. Durations below 1 µs count as 0, above 16 days
as 16 days. Addition is exact, so the same events make the same histogram in any order and any batches.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

MAX_RELATIVE_ERROR = 0.01  #: largest relative error of a percentile
GROWTH_FACTOR = (1 + MAX_RELATIVE_ERROR) / (1 - MAX_RELATIVE_ERROR)
BUCKET_COUNT = 1401
SMALLEST_NS = 1000.0
_ENTRY_TYPE = np.dtype([("bucket", "<u2"), ("count", "<u4")])  #: storage of one non-empty bucket

Counts = npt.NDArray[np.int64]  #: one per bucket, (SIZE,)


def count_durations(durations_ns: Sequence[float]) -> Counts:
    """Return the histogram of durations in nanoseconds."""
    values = np.maximum(np.asarray(durations_ns, dtype=np.float64), SMALLEST_NS)
    buckets = np.ceil(np.log(values / SMALLEST_NS) / math.log(GROWTH_FACTOR)).astype(np.int64)
    return np.bincount(np.minimum(buckets, BUCKET_COUNT - 1), minlength=BUCKET_COUNT)


def pack_counts(counts: Counts) -> bytes:
    """Return the bytes of a histogram: six for each non-empty bucket."""
    (buckets,) = np.nonzero(counts)
    entries = np.empty(len(buckets), _ENTRY_TYPE)
    entries["bucket"], entries["count"] = buckets, counts[buckets]
    return entries.tobytes()


def merge_packed(histograms: Iterable[bytes]) -> Counts:
    """Return the sum of packed histograms."""
    entries = np.frombuffer(b"".join(histograms), _ENTRY_TYPE)
    return np.bincount(entries["bucket"], entries["count"], BUCKET_COUNT).astype(np.int64)


def compute_percentile_ns(counts: Counts, share: float) -> float | None:
    """Return the duration that `share` of all do not exceed (nearest rank), within `ERROR`; None if empty."""
    running = np.cumsum(counts)
    if not running[-1]:
        return None
    bucket = int(np.searchsorted(running, max(1, math.ceil(share * int(running[-1])))))
    return SMALLEST_NS * 2 * GROWTH_FACTOR**bucket / (GROWTH_FACTOR + 1) if bucket else 0.0
