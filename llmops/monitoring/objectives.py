"""Service-level objectives: what requests did in a window of time, judged against what was promised.

The promised latency is that of answers (2xx) of `/generate`, as in the rule `latency_p95`: a chat of many tokens takes
what it takes. The error rate is the share of 5xx among answered and failed requests but those for embeddings: a
caller's own mistakes (4xx) neither improve nor worsen it and are counted apart.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from llmops.config import Config
from llmops.monitoring.datasets import SERVING
from llmops.monitoring.events import timestamp
from llmops.monitoring.figures.requests import Figures, percentile
from llmops.monitoring.reader import Reader, reader_of


def summary(figures: Figures) -> dict[str, Any]:
    """Counts, error rate and latency of some requests; JSON values, null where there is nothing to measure."""
    names = ("requests", "answered", "refused", "failed", "error_rate", "latency_ms", "input_tokens", "output_tokens")
    return {name: getattr(figures, name) for name in names}


def report(config: Config, since: datetime, until: datetime, reader: Reader | None = None) -> dict[str, Any]:
    """Judge the window `since <= time < until`; alerts are raised by the rules of `llmops.alerts`, not from here.

    What still waits in the spool is not seen: `spool.drain` first.

    Args:
        config: the objectives, and where events are.
        since, until: bounds with time zone.
        reader: what is read; by default what the configuration says.

    Returns:
        `summary` of all requests, `versions`, `judged` (whether there were enough requests), `objectives` (name,
        value, objective, breached) and `alerts` (the names of those breached). `latency_ms` is that of all routes.

    Raises:
        ConfigError: if events go to no sink that can be read.
    """
    reader = reader or reader_of(config)
    found, own = reader.requests(since, until), _own(reader, since, until)
    total, promised = summary(found.total), config.monitoring
    judged, enough = total["answered"] + total["failed"] >= promised.min_requests, len(own) >= promised.min_requests
    objectives = [
        _judge(
            "latency_p95_ms", percentile([ms for ms in own if ms is not None], 0.95), promised.latency_p95_ms, enough
        ),
        _judge("error_rate", total["error_rate"], promised.error_rate, judged),
    ]
    return {
        "since": timestamp(since),
        "until": timestamp(until),
        **total,
        "versions": {version: summary(figures) for version, figures in found.versions.items()},
        "judged": judged,
        "objectives": objectives,
        "alerts": [objective["name"] for objective in objectives if objective["breached"]],
    }


def _own(reader: Reader, since: datetime, until: datetime) -> list[float | None]:
    """Milliseconds that each answer of `/generate` took, of what is kept of this window; None of one that failed."""
    fields = ("url.path", "http.response.status_code", "event.duration")
    return [
        (duration or 0) / 1e6 if status < 400 else None
        for path, status, duration in reader.columns(SERVING, fields, timestamp(since), timestamp(until))
        if status and (status < 400 or status >= 500) and (path or "/generate") == "/generate"
    ]


def _judge(name: str, value: float | None, objective: float, judged: bool) -> dict[str, Any]:
    breached = judged and value is not None and value > objective
    return {"name": name, "value": value, "objective": objective, "breached": breached}
