"""Drift watch: compares the champion's last whole window of requests with its reference, one event per comparison.

Windows neither overlap nor leave gaps (windows of 24 hours are days of UTC), so their comparisons are independent. A
comparison that differs in `alerts.drift_windows` windows in a row is drift and raises an alert. Each window is compared
once.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any

from llmops.config import Config
from llmops.data.retrieval.embedder import Embedder
from llmops.events.datasets import DRIFT
from llmops.events.events import emit_all, format_timestamp
from llmops.events.reader import Reader, make_reader
from llmops.frame.errors import ConfigError
from llmops.monitoring.drift.event_fields import COMPARISON_FIELDS, describe_comparison, read_comparison
from llmops.monitoring.drift.reference import NoReferenceError, ReferenceName, find_reference
from llmops.monitoring.drift.sample import SIDES, read_event_sample
from llmops.monitoring.drift.sample_comparison import Comparison, compare_samples
from llmops.release.registry.registry import registry_of

_MAX_WINDOWS_BACK = 7  #: windows searched for the one before; windows with few requests are skipped


def watch_drift(config: Config, now: datetime | None = None, against: ReferenceName | None = None) -> dict[str, Any]:
    """Compare the last window that has ended with its reference.

    Events that wait in the spool are not seen: call `drain_spool` first.

    Returns:
        `state`: `judged`, `too few`, `no reference`, `no champion` or `no reader`, with `why` if nothing was judged;
        the window; `comparisons` as JSON values; `drift`: the comparisons that raise the alert.
    """
    champion = registry_of(config).champion()
    if champion is None:
        return {"state": "no champion", "why": "nothing is served yet"}
    try:
        reader = make_reader(config)
    except ConfigError as error:
        return {"state": "no reader", "why": str(error).rstrip(".")}
    length = timedelta(hours=config.monitoring.drift_hours)
    until = _find_window_end(now or datetime.now(UTC), length)
    since = until - length
    facts = {"version": champion.name, "since": format_timestamp(since), "until": format_timestamp(until)}
    try:
        reference = find_reference(config, reader, champion, since, against)
    except NoReferenceError as error:
        return {"state": "no reference", **facts, "why": str(error)}
    facts["reference"] = reference.name
    window = read_event_sample(reader, facts["since"], facts["until"], champion.name)
    if len(window) < config.monitoring.drift_requests:
        reason = f"{len(window)} requests, fewer than monitoring.drift_requests {config.monitoring.drift_requests}"
        return {"state": "too few", **facts, "requests": len(window), "why": reason}
    earlier = list(_read_earlier(reader, facts, since - _MAX_WINDOWS_BACK * length))
    comparisons = [
        {name: comparison[name] for name in COMPARISON_FIELDS}
        for comparison in earlier
        if comparison["since"] == facts["since"]
    ]
    if not comparisons:
        with closing(Embedder()) as embedder:
            embed = embedder.embed if config.index.model else None
            compared = compare_samples(reference.sample, window, int(since.timestamp()), embed)
        comparisons = [_add_streak(comparison, earlier) for comparison in compared]
        emit_all(
            config.events,
            DRIFT,
            [_build_drift_event(config, facts, len(window), comparison) for comparison in comparisons],
        )
    comparisons.sort(key=lambda one: (SIDES.index(one["side"]), one["feature"]))
    drift = [comparison for comparison in comparisons if comparison["windows"] >= config.alerts.drift_windows]
    return {"state": "judged", **facts, "requests": len(window), "comparisons": comparisons, "drift": drift}


def _read_earlier(reader: Reader, facts: Mapping[str, str], oldest: datetime) -> Iterator[dict[str, Any]]:
    comparisons = [
        read_comparison(event)
        for event in reader.find(DRIFT, format_timestamp(oldest))
        if event.get("llmops.model.version") == facts["version"]
        and event.get("llmops.drift.reference") == facts["reference"]
        and format_timestamp(oldest) <= event["llmops.drift.since"] <= facts["since"]
    ]
    return iter(sorted(comparisons, key=lambda one: one["since"]))


def _add_streak(comparison: Comparison, earlier: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    values = asdict(comparison) | {"unlike": list(comparison.unlike), "topics": list(comparison.topics)}
    same = [other for other in earlier if (other["side"], other["feature"]) == (comparison.side, comparison.feature)]
    before = same[-1]["windows"] or 0 if same else 0
    return {**values, "windows": before + 1 if comparison.drifted else 0}


def _build_drift_event(
    config: Config, facts: Mapping[str, str], requests: int, comparison: Mapping[str, Any]
) -> dict[str, Any]:
    identity = "|".join([DRIFT, *facts.values(), comparison["side"], comparison["feature"]])
    return {
        "event.id": str(uuid.uuid5(uuid.NAMESPACE_URL, identity)),
        "event.action": "compare",
        "event.outcome": "success",
        "message": describe_comparison(comparison),
        "llmops.model.name": config.release.name,
        "llmops.model.version": facts["version"],
        "llmops.drift.requests": requests,
        **{f"llmops.drift.{name}": facts[name] for name in ("since", "until", "reference")},
        **{f"llmops.drift.{name}": comparison[name] for name in COMPARISON_FIELDS},
    }


def _find_window_end(now: datetime, length: timedelta) -> datetime:
    seconds = length.total_seconds()
    return datetime.fromtimestamp(now.timestamp() // seconds * seconds, UTC)
