"""What requests did in a window of time, by version and over time: what readers of events tell of them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from llmops.monitoring.figures import histogram
from llmops.monitoring.figures.histogram import Counts

EMBEDDINGS = "embeddings"  #: `gen_ai.operation.name` of what is no answer of a language model
SHARES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}

Percentiles = dict[str, float | None]  #: p50, p95 and p99, milliseconds


@dataclass(frozen=True, slots=True)
class Figures:
    """What some requests did. Times are of answered ones (below 400); a failed one (500 and more) got no answer through
    no fault of the caller's, and all others are refused."""

    requests: int = 0
    answered: int = 0
    refused: int = 0
    failed: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    answer_tokens: int = 0  #: those of the output that answered requests got
    seconds: float = 0.0  #: that answered requests took, all together
    latency_ms: Percentiles = field(default_factory=lambda: dict.fromkeys(SHARES))
    first_token_ms: Percentiles = field(default_factory=lambda: dict.fromkeys(SHARES))
    queue_ms: Percentiles = field(default_factory=lambda: dict.fromkeys(SHARES))
    errors: dict[str, int] = field(default_factory=dict)  #: status and kind → refused and failed requests

    @property
    def error_rate(self) -> float | None:
        """The share of failed ones among answered and failed ones: callers' mistakes do not count."""
        judged = self.answered + self.failed
        return self.failed / judged if judged else None

    def as_json(self) -> dict[str, Any]:
        """JSON values, null where there is nothing to measure."""
        return {**asdict(self), "error_rate": self.error_rate}


class Requests(NamedTuple):
    """The requests of a window."""

    total: Figures
    versions: dict[str, Figures]  #: by the model's version; requests that reached no model are in none
    series: list[Figures]  #: one for each step of the window, if a step was asked for


@dataclass(slots=True)
class Tally:
    """Requests that are added up: exactly from their own times, or from histograms of them."""

    counts: Counter[tuple[int, str]] = field(default_factory=Counter)  #: by status and kind of error
    input_tokens: int = 0
    output_tokens: int = 0
    answer_tokens: int = 0
    duration_ns: int = 0
    times: tuple[Times, Times, Times] = field(default_factory=lambda: (Times(), Times(), Times()))

    def add(self, other: Tally) -> None:
        """Add what another has counted."""
        self.counts.update(other.counts)
        self.input_tokens += other.input_tokens
        self.output_tokens += other.output_tokens
        self.answer_tokens += other.answer_tokens
        self.duration_ns += other.duration_ns
        for mine, others in zip(self.times, other.times, strict=True):
            mine.add(others)

    def figures(self) -> Figures:
        """What they did."""
        by_outcome = Counter[str]()
        errors = Counter[str]()
        for (status, error), count in self.counts.items():
            outcome = outcome_of(status)
            by_outcome[outcome] += count
            if outcome != "answered":
                errors[f"{status} {error}".strip()] += count
        latency, first_token, queue = (times.percentiles() for times in self.times)
        return Figures(
            requests=sum(by_outcome.values()),
            **by_outcome,
            input_tokens=self.input_tokens,
            output_tokens=self.output_tokens,
            answer_tokens=self.answer_tokens,
            seconds=self.duration_ns / 1e9,
            latency_ms=latency,
            first_token_ms=first_token,
            queue_ms=queue,
            errors=dict(errors.most_common()),
        )


@dataclass(slots=True)
class Times:
    """Durations in nanoseconds: as they are, or as packed histograms."""

    exact: list[float] = field(default_factory=list)
    packed: list[bytes] = field(default_factory=list)

    def add(self, other: Times) -> None:
        """Add others."""
        self.exact += other.exact
        self.packed += other.packed

    def counts(self) -> Counts:
        """The histogram of all."""
        return histogram.added(self.packed) + histogram.counted(self.exact)

    def settle(self) -> None:
        """Make one histogram of several."""
        if len(self.packed) > 1:
            self.packed = [histogram.packed(histogram.added(self.packed))]

    def percentiles(self) -> Percentiles:
        """By nearest rank, so that each of exact ones is a time that really occurred."""
        if self.packed:
            counts = self.counts()
            found = {name: histogram.percentile_ns(counts, share) for name, share in SHARES.items()}
        else:
            found = {name: percentile(self.exact, share) for name, share in SHARES.items()}
        return {name: None if value is None else value / 1e6 for name, value in found.items()}


def outcome_of(status: int) -> str:
    """`answered`, `refused` or `failed`."""
    return "answered" if status < 400 else "failed" if status >= 500 else "refused"


def percentile(values: Sequence[float], share: float) -> float | None:
    """The smallest value that `share` of the values do not exceed (nearest rank); None without values."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)] if values else None


def steps(since: datetime, until: datetime, step: timedelta | None) -> int:
    """How many steps a window has, the last one perhaps cut short."""
    return math.ceil((until - since) / step) if step else 0


def gathered(tallies: Iterable[tuple[int, str, Tally]], count: int) -> Requests:
    """Add up tallies that are given with the number of their step (-1: none is asked for) and their version."""
    cells = dict[tuple[int, str], Tally]()
    for number, version, tally in tallies:
        cells.setdefault((number, version), Tally()).add(tally)
    total, series, versions = Tally(), [Tally() for _ in range(count)], dict[str, Tally]()
    for (number, version), tally in cells.items():
        for times in tally.times:
            times.settle()
        total.add(tally)
        if number >= 0:
            series[number].add(tally)
        if version:
            versions.setdefault(version, Tally()).add(tally)
    return Requests(
        total.figures(),
        {version: versions[version].figures() for version in sorted(versions, key=number_of)},
        [tally.figures() for tally in series],
    )


def number_of(version: str) -> tuple[int, str]:
    """What versions are sorted by: v9 is before v10."""
    digits = version.lstrip("v")
    return (int(digits) if digits.isdecimal() else 0, version)
