"""Service-level objectives: what `/generate` did in a window of time, judged against what was promised.

Latency is over answered requests (2xx). The error rate is the share of 5xx among answered and failed ones: a caller's
own mistakes (4xx) neither improve nor worsen it and are counted apart.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from llmops.config import Config
from llmops.monitoring.events import timestamp
from llmops.monitoring.figures.requests import Figures
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
        value, objective, breached) and `alerts` (the names of those breached).

    Raises:
        ConfigError: if events go to no sink that can be read.
    """
    found = (reader or reader_of(config)).requests(since, until)
    total, promised = summary(found.total), config.monitoring
    judged = total["answered"] + total["failed"] >= promised.min_requests
    objectives = [
        _judge("latency_p95_ms", total["latency_ms"]["p95"], promised.latency_p95_ms, judged),
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


def _judge(name: str, value: float | None, objective: float, judged: bool) -> dict[str, Any]:
    breached = judged and value is not None and value > objective
    return {"name": name, "value": value, "objective": objective, "breached": breached}
