"""Figures of the requests in a window of time: in total, by version and over time."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from llmops.events.figures import histogram
from llmops.events.figures.histogram import Counts

PERCENTILE_SHARES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}

Percentiles = dict[str, float | None]  #: p50, p95 and p99, milliseconds


@dataclass(frozen=True, slots=True)
class Stats:
    """Statistics of some requests. Times are of answered requests.

    A request is answered (status below 400), failed (500 and more) or refused (all others, the caller's mistake).
    """

    requests: int = 0
    answered: int = 0
    refused: int = 0
    failed: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    answer_tokens: int = 0  #: output tokens of answered requests
    seconds: float = 0.0  #: total duration of answered requests
    latency_ms: Percentiles = field(default_factory=lambda: dict.fromkeys(PERCENTILE_SHARES))
    first_token_ms: Percentiles = field(default_factory=lambda: dict.fromkeys(PERCENTILE_SHARES))
    queue_ms: Percentiles = field(default_factory=lambda: dict.fromkeys(PERCENTILE_SHARES))
    errors: dict[str, int] = field(default_factory=dict)  #: status and kind → refused and failed requests

    @property
    def error_rate(self) -> float | None:
        """Return the share of failures among answered and failed requests. Refused requests do not count."""
        relevant = self.answered + self.failed
        return self.failed / relevant if relevant else None

    def as_json(self) -> dict[str, Any]:
        """Return JSON values; null without measurement."""
        return {**asdict(self), "error_rate": self.error_rate}


class Summary(NamedTuple):
    """Statistics of the requests of a window."""

    total: Stats
    versions: dict[str, Stats]  #: by model version; requests that reached no model are in none
    series: list[Stats]  #: one for each step of the window, if a step was given


@dataclass(slots=True)
class Tally:
    """A sum of requests, from exact times or from histograms of times."""

    counts: Counter[tuple[int, str]] = field(default_factory=Counter)  #: by status and kind of error
    input_tokens: int = 0
    output_tokens: int = 0
    answer_tokens: int = 0
    duration_ns: int = 0
    times: tuple[Times, Times, Times] = field(default_factory=lambda: (Times(), Times(), Times()))

    def add(self, other: Tally) -> None:
        """Add the counts of another tally."""
        self.counts.update(other.counts)
        self.input_tokens += other.input_tokens
        self.output_tokens += other.output_tokens
        self.answer_tokens += other.answer_tokens
        self.duration_ns += other.duration_ns
        for mine, others in zip(self.times, other.times, strict=True):
            mine.add(others)

    def summarize(self) -> Stats:
        """Return the statistics of all added requests."""
        by_outcome = Counter[str]()
        errors = Counter[str]()
        for (status, error), count in self.counts.items():
            outcome = classify_status(status)
            by_outcome[outcome] += count
            if outcome != "answered":
                errors[f"{status} {error}".strip()] += count
        latency, first_token, queue = (times.compute_percentiles() for times in self.times)
        return Stats(
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
    """Durations in nanoseconds: exact values and packed histograms."""

    exact: list[float] = field(default_factory=list)
    packed: list[bytes] = field(default_factory=list)

    def add(self, other: Times) -> None:
        """Add the durations of another."""
        self.exact += other.exact
        self.packed += other.packed

    def build_histogram(self) -> Counts:
        """Return the histogram of all durations."""
        return histogram.merge_packed(self.packed) + histogram.count_durations(self.exact)

    def merge_histograms(self) -> None:
        """Merge the packed histograms into one."""
        if len(self.packed) > 1:
            self.packed = [histogram.pack_counts(histogram.merge_packed(self.packed))]

    def compute_percentiles(self) -> Percentiles:
        """Return percentiles in milliseconds, by nearest rank: an exact one is a time that really occurred."""
        if self.packed:
            counts = self.build_histogram()
            durations_ns = {
                name: histogram.compute_percentile_ns(counts, share) for name, share in PERCENTILE_SHARES.items()
            }
        else:
            durations_ns = {name: compute_percentile(self.exact, share) for name, share in PERCENTILE_SHARES.items()}
        return {name: None if value is None else value / 1e6 for name, value in durations_ns.items()}


def classify_status(status: int) -> str:
    """Return `answered`, `refused` or `failed`."""
    return "answered" if status < 400 else "failed" if status >= 500 else "refused"


def compute_percentile(values: Sequence[float], share: float) -> float | None:
    """Return the smallest value that `share` of the values do not exceed (nearest rank); None without values."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)] if values else None


def count_steps(since: datetime, until: datetime, step: timedelta | None) -> int:
    """Return the number of steps in a window; the last one may be shorter."""
    return math.ceil((until - since) / step) if step else 0


def sum_tallies(tallies: Iterable[tuple[int, str, Tally]], count: int) -> Summary:
    """Sum tallies of (step number, version, tally). The step number is -1 if no step was given."""
    cells = dict[tuple[int, str], Tally]()
    for number, version, tally in tallies:
        cells.setdefault((number, version), Tally()).add(tally)
    total, series, versions = Tally(), [Tally() for _ in range(count)], dict[str, Tally]()
    for (number, version), tally in cells.items():
        for times in tally.times:
            times.merge_histograms()
        total.add(tally)
        if number >= 0:
            series[number].add(tally)
        if version:
            versions.setdefault(version, Tally()).add(tally)
    return Summary(
        total.summarize(),
        {version: versions[version].summarize() for version in sorted(versions, key=make_version_sort_key)},
        [tally.summarize() for tally in series],
    )


def make_version_sort_key(version: str) -> tuple[int, str]:
    """Return the sort key of a version: v9 comes before v10."""
    digits = version.lstrip("v")
    return (int(digits) if digits.isdecimal() else 0, version)
