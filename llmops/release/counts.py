"""Counts of one side of a trial, by group of callers. They take the same memory after a million requests.

A caller belongs to one of `GROUPS` groups by a digest of its key's owner, so that counts name nobody. Sides are drawn
by group, so a group is on one side only, and the tests treat it as one caller. The counts of several replicas are added
up. Pure functions, no files.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self, get_args

GROUPS = 512
FLOOR_S = 0.01  #: faster answers count as this fast: the difference is noise of the machine
STEP = 1.2  #: width of a bucket of latencies

#: `failed`: not answered, by no fault of the caller; `refused`: there was no room; `left`: the caller gave up;
#: `rejected`: answered, but the output guard blocked the answer; `up`, `down`, `corrected`: feedback of users
CountName = Literal["answered", "failed", "refused", "left", "rejected", "up", "down", "corrected"]
COUNT_NAMES: tuple[CountName, ...] = get_args(CountName)

#: of one group: requests by `CountName`, and answers by class of lengths and bucket of latency ("3/5/12")
GroupCounts = Counter[str]


def assign_group(caller: str) -> str:
    """Return the group of a caller, from the owner of its key, see `Key.answered_to`."""
    return str(int.from_bytes(hashlib.sha256(caller.encode()).digest()[:8], "big") % GROUPS)


def find_bucket(seconds: float) -> int:
    """Return the bucket of a latency: bucket n begins at `STEP` to the power of n."""
    return math.floor(math.log(max(seconds, FLOOR_S)) / math.log(STEP))


def count_requests(counts: GroupCounts) -> int:
    """Return the number of requests with any outcome."""
    return counts["answered"] + counts["failed"] + counts["refused"] + counts["left"]


def list_latencies(counts: GroupCounts) -> Iterator[tuple[str, int, int]]:
    """Yield class of lengths, bucket of latency and number of answers."""
    for key, number in counts.items():
        lengths, _, at = key.rpartition("/")
        if lengths:
            yield lengths, int(at), number


@dataclass(slots=True)
class SideCounts:
    """Counts of one side."""

    callers: dict[str, GroupCounts] = field(default_factory=dict)  #: by group

    @property
    def requests(self) -> int:
        """Return the number of requests with any outcome."""
        return sum(map(count_requests, self.callers.values()))

    def total(self, name: CountName) -> int:
        """Return a count over all callers."""
        return sum(counts[name] for counts in self.callers.values())

    def count(self, caller: str, name: CountName, number: int = 1) -> None:
        """Add to a count of a caller."""
        self.callers.setdefault(assign_group(caller), Counter())[name] += number

    def add(self, caller: str, seconds: float, input_tokens: int, output_tokens: int, rejected: bool = False) -> None:
        """Count an answer. Latencies are compared within powers of 4 of the input's tokens, of 2 of the output's."""
        counts = self.callers.setdefault(assign_group(caller), Counter())
        lengths = f"{input_tokens.bit_length() // 2}/{output_tokens.bit_length()}"
        counts.update(["answered", f"{lengths}/{find_bucket(seconds)}", *(["rejected"] if rejected else [])])

    def __add__(self, other: SideCounts) -> SideCounts:
        callers = {key: Counter(counts) for key, counts in self.callers.items()}
        for key, counts in other.callers.items():
            callers.setdefault(key, Counter()).update(counts)
        return SideCounts(callers)

    def find_quantile_s(self, share: float) -> float | None:
        """Return the latency that `share` of the answers do not exceed, to 10 %; None without answers."""
        times: Counter[int] = Counter()
        for counts in self.callers.values():
            for _, at, number in list_latencies(counts):
                times[at] += number
        left = share * times.total()
        for at in sorted(times):
            left -= times[at]
            if left <= 0:
                return float(STEP ** (at + 0.5))
        return None

    def summarize(self) -> dict[str, Any]:
        """Return counts and latency for people, as JSON values."""
        latency = {name: self.find_quantile_s(share) for name, share in (("p50", 0.5), ("p95", 0.95))}
        return {
            "callers": len(self.callers),
            "requests": self.requests,
            **{name: self.total(name) for name in COUNT_NAMES if name != "answered"},
            "latency_ms": {name: None if s is None else round(1000 * s, 1) for name, s in latency.items()},
        }

    def as_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {key: dict(counts) for key, counts in self.callers.items()}

    @classmethod
    def from_json(cls, document: Mapping[str, Mapping[str, int]]) -> Self:
        """Return the counts that `as_json` gave."""
        return cls({key: Counter({name: int(n) for name, n in counts.items()}) for key, counts in document.items()})
