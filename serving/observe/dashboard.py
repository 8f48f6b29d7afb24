"""The figures of the dashboard, from wherever events are read, as JSON values."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from llmops.monitoring.datasets import CANARY, GATE, HUB
from llmops.monitoring.events import timestamp
from llmops.monitoring.figures.requests import Figures
from llmops.monitoring.reader import Reader
from serving.observe.stages import stage_lines
from serving.observe.watch import alerts, decay, drift, sinks

Span = Literal["1h", "24h", "7d", "90d"]

#: span → length of one bucket and number of buckets
SPANS: dict[Span, tuple[timedelta, int]] = {
    "1h": (timedelta(minutes=1), 60),
    "24h": (timedelta(minutes=30), 48),
    "7d": (timedelta(hours=2), 84),
    "90d": (timedelta(days=1), 90),
}
RECENT = {GATE: 8, CANARY: 8, HUB: 1}  #: how many of the latest are listed


def dashboard_figures(reader: Reader, span: Span, in_a_row: int, now: datetime | None = None) -> dict[str, Any]:
    """Totals, series over time, versions, what watches the model has found, and the latest stages and decisions.

    Series have one entry per bucket, the last one being the bucket that `now` is in. A comparison that differs in
    `in_a_row` windows in a row is drift.
    """
    now = now or datetime.now(UTC)
    step, count = SPANS[span]
    last = datetime.fromtimestamp(now.timestamp() // step.total_seconds() * step.total_seconds(), UTC)
    first = last - (count - 1) * step
    found = reader.requests(first, last + step, step)
    return {
        "now": timestamp(now),
        "step_s": int(step.total_seconds()),
        "totals": found.total.as_json(),
        "series": [{"time": timestamp(first + n * step), **_bucket(b)} for n, b in enumerate(found.series)],
        "versions": _versions(found.versions, reader.ratings(first, last + step)),
        "stages": stage_lines(reader, now),
        "gates": [_gate(event) for event in _recent(reader, GATE)],
        "canaries": [_canary(event) for event in _recent(reader, CANARY)],
        "hub": [_hub(event) for event in _recent(reader, HUB)],
        "alerts": alerts(reader),
        "drift": drift(reader, in_a_row),
        "decay": decay(reader, now),
        "sinks": sinks(reader),
    }


def _bucket(figures: Figures) -> dict[str, Any]:
    names = ("answered", "refused", "failed", "input_tokens", "output_tokens")
    times = {"": figures.latency_ms, "first_": figures.first_token_ms, "queue_": figures.queue_ms}
    percentiles = {f"{prefix}{p}": values[p] for prefix, values in times.items() for p in ("p50", "p95")}
    return {**{name: getattr(figures, name) for name in names}, **percentiles}


def _versions(versions: Mapping[str, Figures], rated: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, Any]]:
    """By version: its figures, its share of the requests, tokens per second of an answer, and its ratings."""
    everything = sum(figures.requests for figures in versions.values())
    return {
        name: {
            **figures.as_json(),
            "share": figures.requests / everything,
            "tokens_per_s": figures.answer_tokens / figures.seconds if figures.seconds else None,
            **{word: rated.get(name, {}).get(word, 0) for word in ("up", "down")},
        }
        for name, figures in versions.items()
    }


def _canary(event: Mapping[str, Any]) -> dict[str, Any]:
    names = ("outcome", "share", "numbers")
    facts = {name: event.get(f"llmops.canary.{name}") for name in names}
    why, version = event.get("event.reason", ""), event.get("llmops.model.version", "")
    return {"time": event["@timestamp"], "version": version, "why": why, **facts}


def _gate(event: Mapping[str, Any]) -> dict[str, Any]:
    names = (
        "outcome", "opponent", "reasons", "metric", "candidate", "opponent_value", "difference", "low", "high",
        "attempt", "level", "left", "power",
    )  # fmt: skip
    facts = {name: event.get(f"llmops.gate.{name}") for name in names}
    return {"time": event["@timestamp"], "version": event.get("llmops.model.version", ""), **facts}


def _hub(event: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "time": event["@timestamp"],
        "repo": event.get("llmops.hub.repo", ""),
        "main": event.get("llmops.hub.main", ""),
    }


def _recent(reader: Reader, dataset: str) -> list[dict[str, Any]]:
    return list(reader.find(dataset, limit=RECENT[dataset], newest_first=True))
