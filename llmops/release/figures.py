"""Counts of one side of a trial, by group of callers. They take the same memory after a million requests.

A caller belongs to one of `GROUPS` groups by a digest of its key's prefix, so that counts name nobody. Sides are drawn
by group, so a group is on one side only and is what the tests take for one caller. The counts of several replicas are
added up. Pure functions, no files.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self, get_args

GROUPS = 512
FLOOR_S = 0.01  #: faster answers count alike: nobody notices, and it is noise of the machine
STEP = 1.2  #: width of a bucket of latencies

#: `failed`: not answered through no fault of the caller; `refused`: there was no room; `left`: given up by the caller;
#: `rejected`: answered, but the output guard kept the answer back; `up`, `down`, `corrected`: said by users
Word = Literal["answered", "failed", "refused", "left", "rejected", "up", "down", "corrected"]
WORDS: tuple[Word, ...] = get_args(Word)

#: of one group: how many of each word, and answers by class of lengths and bucket of latency ("3/5/12")
Counts = Counter[str]


def group_of(caller: str) -> str:
    """Return the group of a caller, from the prefix of its key."""
    return str(int.from_bytes(hashlib.sha256(caller.encode()).digest()[:8], "big") % GROUPS)


def bucket(seconds: float) -> int:
    """Return the bucket of a latency: from `STEP` to its power to the next."""
    return math.floor(math.log(max(seconds, FLOOR_S)) / math.log(STEP))


def requests_of(counts: Counts) -> int:
    """Return the number of requests, however they ended."""
    return counts["answered"] + counts["failed"] + counts["refused"] + counts["left"]


def times_of(counts: Counts) -> Iterator[tuple[str, int, int]]:
    """Yield class of lengths, bucket of latency and number of answers."""
    for key, number in counts.items():
        lengths, _, at = key.rpartition("/")
        if lengths:
            yield lengths, int(at), number


@dataclass(slots=True)
class Figures:
    """Counts of one side."""

    callers: dict[str, Counts] = field(default_factory=dict)  #: by `group_of`; a caller is named by its key's prefix

    @property
    def requests(self) -> int:
        """Return the number of all requests, however they ended."""
        return sum(map(requests_of, self.callers.values()))

    def total(self, word: Word) -> int:
        """Return a count over all callers."""
        return sum(counts[word] for counts in self.callers.values())

    def count(self, caller: str, word: Word, number: int = 1) -> None:
        """Count what happened to a caller."""
        self.callers.setdefault(group_of(caller), Counter())[word] += number

    def add(self, caller: str, seconds: float, input_tokens: int, output_tokens: int, rejected: bool = False) -> None:
        """Count an answer. Latencies are compared within powers of 4 of the input's tokens, of 2 of the output's."""
        counts = self.callers.setdefault(group_of(caller), Counter())
        lengths = f"{input_tokens.bit_length() // 2}/{output_tokens.bit_length()}"
        counts.update(["answered", f"{lengths}/{bucket(seconds)}", *(["rejected"] if rejected else [])])

    def __add__(self, other: Figures) -> Figures:
        callers = {key: Counter(counts) for key, counts in self.callers.items()}
        for key, counts in other.callers.items():
            callers.setdefault(key, Counter()).update(counts)
        return Figures(callers)

    def quantile_s(self, share: float) -> float | None:
        """Return the latency that `share` of the answers do not exceed, to 10 %; None without answers."""
        times: Counter[int] = Counter()
        for counts in self.callers.values():
            for _, at, number in times_of(counts):
                times[at] += number
        left = share * times.total()
        for at in sorted(times):
            left -= times[at]
            if left <= 0:
                return float(STEP ** (at + 0.5))
        return None

    def summary(self) -> dict[str, Any]:
        """Return counts and latency for people, as JSON values."""
        latency = {name: self.quantile_s(share) for name, share in (("p50", 0.5), ("p95", 0.95))}
        return {
            "callers": len(self.callers),
            "requests": self.requests,
            **{word: self.total(word) for word in WORDS if word != "answered"},
            "latency_ms": {name: None if s is None else round(1000 * s, 1) for name, s in latency.items()},
        }

    def document(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {key: dict(counts) for key, counts in self.callers.items()}

    @classmethod
    def of(cls, document: Mapping[str, Mapping[str, int]]) -> Self:
        """Return the figures that `document` gave."""
        return cls({key: Counter({word: int(n) for word, n in counts.items()}) for key, counts in document.items()})
