"""What one side of a trial has done, by caller: counts that take the same memory after a million requests.

Callers are kept apart by a digest of their key's prefix, in `GROUPS` groups: of some dozen callers nearly every one has
its own, of ten thousand some share one, and who it is cannot be read from it. The figures of several replicas are added
up. Pure functions, no files.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

GROUPS = 512
FLOOR_S = 0.01  #: faster than this is all the same: nobody notices, and it is noise of the machine
STEP = 1.2  #: width of a bucket of a caller's latencies
FINE = 1.02  #: width of a bucket of all latencies together, which people are shown

_NUMBERS = ("answered", "failed", "refused", "left", "rejected", "up", "down", "corrected")  # of `Counts`

Times = dict[str, Counter[int]]  #: class of lengths → bucket of latency → answers


@dataclass(slots=True)
class Counts:
    """What one group of callers got."""

    answered: int = 0
    failed: int = 0
    refused: int = 0  #: there was no room for them
    left: int = 0  #: given up by the caller before the answer was complete
    rejected: int = 0  #: answered, but the output guard kept the answer back
    up: int = 0  #: answers that were liked
    down: int = 0  #: answers that were not
    corrected: int = 0  #: answers that somebody said better
    length: float = 0.0  #: sum of the logarithms of the answers' tokens and one
    times: Times = field(default_factory=dict)

    @property
    def requests(self) -> int:
        """All that came, however they ended."""
        return self.answered + self.failed + self.refused + self.left

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.answered + other.answered,
            self.failed + other.failed,
            self.refused + other.refused,
            self.left + other.left,
            self.rejected + other.rejected,
            self.up + other.up,
            self.down + other.down,
            self.corrected + other.corrected,
            self.length + other.length,
            {key: self.times.get(key, Counter()) + other.times.get(key, Counter()) for key in self.times | other.times},
        )


def group_of(caller: str) -> str:
    """The group that a caller is counted in, from the prefix of its key."""
    return str(int.from_bytes(hashlib.sha256(caller.encode()).digest()[:8], "big") % GROUPS)


def bucket(seconds: float) -> int:
    """The bucket of a latency: from `STEP` to its power to the next."""
    return math.floor(math.log(max(seconds, FLOOR_S)) / math.log(STEP))


@dataclass(slots=True)
class Figures:
    """What one side has done."""

    callers: dict[str, Counts] = field(default_factory=dict)  #: by `group_of`
    times: Counter[int] = field(default_factory=Counter)  #: fine bucket of latency → answers

    @property
    def answered(self) -> int:
        """Requests that the engine answered, rejected ones included."""
        return self.total("answered")

    @property
    def failed(self) -> int:
        """Requests that it did not answer through no fault of the caller."""
        return self.total("failed")

    @property
    def rejected(self) -> int:
        """Answers that the output guard kept back."""
        return self.total("rejected")

    @property
    def requests(self) -> int:
        """All that came, however they ended."""
        return self.total("requests")

    def total(self, what: str) -> int:
        """A count of `Counts`, over all callers."""
        return sum(getattr(counts, what) for counts in self.callers.values())

    def fail(self, caller: str) -> None:
        """Count a request of a caller that the engine failed at."""
        self._of(caller).failed += 1

    def refuse(self, caller: str) -> None:
        """Count a request of a caller that the engine had no room for."""
        self._of(caller).refused += 1

    def leave(self, caller: str) -> None:
        """Count a request that its caller gave up."""
        self._of(caller).left += 1

    def add(self, caller: str, seconds: float, input_tokens: int, output_tokens: int, rejected: bool = False) -> None:
        """Count an answer.

        Args:
            caller: the prefix of its key.
            seconds: how long it took in all.
            input_tokens, output_tokens: latencies are compared within powers of 4 and of 2 of these.
            rejected: whether the guard kept it back.
        """
        counts, lengths = self._of(caller), f"{input_tokens.bit_length() // 2}/{output_tokens.bit_length()}"
        counts.answered += 1
        counts.rejected += rejected
        counts.length += math.log1p(output_tokens)
        counts.times.setdefault(lengths, Counter())[bucket(seconds)] += 1
        self.times[math.floor(math.log(max(seconds, FLOOR_S)) / math.log(FINE))] += 1

    def rate(self, caller: str, up: int = 0, down: int = 0, corrected: int = 0) -> None:
        """Count what was said of an answer of a caller; negative numbers take back what was counted."""
        counts = self._of(caller)
        counts.up, counts.down, counts.corrected = counts.up + up, counts.down + down, counts.corrected + corrected

    def __add__(self, other: Figures) -> Figures:
        none = Counts()
        callers = {
            key: self.callers.get(key, none) + other.callers.get(key, none) for key in self.callers | other.callers
        }
        return Figures(callers, self.times + other.times)

    def quantile_s(self, share: float) -> float | None:
        """Latency that `share` of the answers do not exceed, to 2 %; None without answers."""
        left = share * self.times.total()
        for fine in sorted(self.times):
            left -= self.times[fine]
            if left <= 0:
                return float(FINE ** (fine + 0.5))
        return None

    def summary(self) -> dict[str, Any]:
        """Counts and latency, for people; JSON values."""
        latency = {name: self.quantile_s(share) for name, share in (("p50", 0.5), ("p95", 0.95))}
        return {
            "callers": len(self.callers),
            "requests": self.requests,
            **{n: self.total(n) for n in ("failed", "refused", "left", "rejected", "up", "down", "corrected")},
            "latency_ms": {name: None if s is None else round(1000 * s, 1) for name, s in latency.items()},
        }

    def document(self) -> dict[str, Any]:
        """Everything, as JSON values."""
        callers = {
            key: [
                *(getattr(c, name) for name in _NUMBERS),
                round(c.length, 4),
                {lengths: _keys(times) for lengths, times in c.times.items()},
            ]
            for key, c in self.callers.items()
        }
        return {"callers": callers, "times": _keys(self.times)}

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self:
        """What `document` gave."""
        callers = {}
        for key, (*numbers, times) in document["callers"].items():
            counts = callers[key] = Counts(**dict(zip((*_NUMBERS, "length"), numbers, strict=True)))
            counts.times = {lengths: _counter(found) for lengths, found in times.items()}
        return cls(callers, _counter(document["times"]))

    def _of(self, caller: str) -> Counts:
        return self.callers.setdefault(group_of(caller), Counts())


def _keys(counts: Counter[int]) -> dict[str, int]:
    return {str(bucket): n for bucket, n in counts.items()}


def _counter(counts: Mapping[str, int]) -> Counter[int]:
    return Counter({int(bucket): n for bucket, n in counts.items()})
