"""Service-level objectives: what `/generate` did in a window of time, judged against what was promised.

Latency is over answered requests (2xx). The error rate is the share of 5xx among answered and failed ones: a caller's
own mistakes (4xx) neither improve nor worsen it and are counted apart. Percentiles are by nearest rank, so that each
is a latency that really occurred.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from llmops.config import Monitoring
from llmops.errors import ConfigError
from llmops.monitoring.datasets import SERVING
from llmops.monitoring.events import timestamp
from llmops.monitoring.sinks.local import LocalStore

_FIELDS = (
    "@timestamp",
    "http.response.status_code",
    "event.duration",
    "gen_ai.usage.input_tokens",
    "gen_ai.usage.output_tokens",
    "llmops.model.version",
)


@dataclass(frozen=True, slots=True)
class Served:
    """One request to `/generate`, as its event tells."""

    time: str
    status: int
    ms: float
    input_tokens: int
    output_tokens: int
    version: str  #: empty when refused before it reached a model

    @property
    def answered(self) -> bool:
        """The caller got an answer."""
        return self.status < 400

    @property
    def failed(self) -> bool:
        """The caller did nothing wrong and got no answer."""
        return self.status >= 500


def served(store: LocalStore, since: datetime, until: datetime) -> list[Served]:
    """The requests with `since <= time < until`, oldest first."""
    rows = store.columns(SERVING, _FIELDS, timestamp(since), timestamp(until))
    return [
        Served(time, int(status or 0), (duration or 0) / 1e6, int(tokens_in or 0), int(tokens_out or 0), version or "")
        for time, status, duration, tokens_in, tokens_out, version in rows
    ]


def percentile(values: Sequence[float], share: float) -> float | None:
    """The smallest value that `share` of the values do not exceed (nearest rank); None without values."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)] if values else None


def summary(requests: Sequence[Served]) -> dict[str, Any]:
    """Counts, error rate and latency of some requests; JSON values, null where there is nothing to measure."""
    good = [r.ms for r in requests if r.answered]
    failed = sum(r.failed for r in requests)
    judged = len(good) + failed
    return {
        "requests": len(requests),
        "answered": len(good),
        "refused": len(requests) - judged,
        "failed": failed,
        "error_rate": failed / judged if judged else None,
        "latency_ms": {name: percentile(good, share) for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))},
        "input_tokens": sum(r.input_tokens for r in requests),
        "output_tokens": sum(r.output_tokens for r in requests),
    }


def by_version(requests: Iterable[Served]) -> dict[str, dict[str, Any]]:
    """`summary` per model version."""
    groups: dict[str, list[Served]] = {}
    for request in requests:
        if request.version:
            groups.setdefault(request.version, []).append(request)
    return {version: summary(group) for version, group in sorted(groups.items(), key=lambda item: _number(item[0]))}


def report(folder: Path, config: Monitoring, since: datetime, until: datetime) -> dict[str, Any]:
    """Judge the window `since <= time < until`; alerts are raised by the rules of `llmops.alerts`, not from here.

    What still waits in the spool is not seen: `spool.drain` first.

    Args:
        folder: the events folder, `config.events`.
        config: the objectives.
        since, until: bounds with time zone.

    Returns:
        `summary` of all requests, `versions`, `judged` (whether there were enough requests), `objectives` (name,
        value, objective, breached) and `alerts` (the names of those breached).

    Raises:
        ConfigError: if events do not go to the local event store.
    """
    if "local" not in config.sinks:
        raise ConfigError("The report reads the local event store; name `local` in monitoring.sinks.")
    requests = served(LocalStore(folder), since, until)
    total = summary(requests)
    judged = total["answered"] + total["failed"] >= config.min_requests
    objectives = [
        _judge("latency_p95_ms", total["latency_ms"]["p95"], config.latency_p95_ms, judged),
        _judge("error_rate", total["error_rate"], config.error_rate, judged),
    ]
    return {
        "since": timestamp(since),
        "until": timestamp(until),
        **total,
        "versions": by_version(requests),
        "judged": judged,
        "objectives": objectives,
        "alerts": [objective["name"] for objective in objectives if objective["breached"]],
    }


def _judge(name: str, value: float | None, objective: float, judged: bool) -> dict[str, Any]:
    breached = judged and value is not None and value > objective
    return {"name": name, "value": value, "objective": objective, "breached": breached}


def _number(version: str) -> tuple[int, str]:
    digits = version.lstrip("v")
    return (int(digits) if digits.isdecimal() else 0, version)
