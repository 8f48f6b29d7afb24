"""The figures of the dashboard, from the local event store, as JSON values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from llmops.monitoring.datasets import ALERT, CANARY, FEEDBACK, GATE, HUB, PIPELINE, SERVING
from llmops.monitoring.events import timestamp
from llmops.monitoring.objectives import Served, by_version, percentile, served, summary
from llmops.monitoring.sinks.local import LocalStore

Span = Literal["1h", "24h", "7d"]

#: span → length of one bucket and number of buckets
SPANS: dict[Span, tuple[timedelta, int]] = {
    "1h": (timedelta(minutes=1), 60),
    "24h": (timedelta(minutes=30), 48),
    "7d": (timedelta(hours=2), 84),
}
RECENT = {
    PIPELINE: 26,
    GATE: 8,
    ALERT: 8,
    CANARY: 8,
    HUB: 1,
}  #: how many of the latest events are listed; two runs have 26 stages


def dashboard_figures(store: LocalStore, span: Span, now: datetime | None = None) -> dict[str, Any]:
    """Totals, series over time, versions, and the latest stages, decisions and alerts.

    Series have one entry per bucket, the last one being the bucket that `now` is in.
    """
    now = now or datetime.now(UTC)
    step, count = SPANS[span]
    last = datetime.fromtimestamp(now.timestamp() // step.total_seconds() * step.total_seconds(), UTC)
    first = last - (count - 1) * step
    requests = served(store, first, last + step)
    buckets: list[list[Served]] = [[] for _ in range(count)]
    for request in requests:
        buckets[(datetime.fromisoformat(request.time) - first) // step].append(request)
    return {
        "now": timestamp(now),
        "step_s": int(step.total_seconds()),
        "totals": summary(requests),
        "series": [{"time": timestamp(first + n * step), **_bucket(bucket)} for n, bucket in enumerate(buckets)],
        "versions": _versions(store, requests, first, last + step),
        "stages": [_stage(event) for event in _recent(store, PIPELINE)],
        "gates": [_gate(event) for event in _recent(store, GATE)],
        "canaries": [_canary(event) for event in _recent(store, CANARY)],
        "hub": [_hub(event) for event in _recent(store, HUB)],
        "alerts": [{"time": e["@timestamp"], "message": e.get("message", "")} for e in _recent(store, ALERT)],
    }


def _bucket(requests: list[Served]) -> dict[str, Any]:
    good = [r.ms for r in requests if r.answered]
    failed = sum(r.failed for r in requests)
    return {
        "answered": len(good),
        "refused": len(requests) - len(good) - failed,
        "failed": failed,
        "p50": percentile(good, 0.5),
        "p95": percentile(good, 0.95),
        "input_tokens": sum(r.input_tokens for r in requests),
        "output_tokens": sum(r.output_tokens for r in requests),
    }


def _versions(store: LocalStore, requests: list[Served], since: datetime, until: datetime) -> dict[str, dict[str, Any]]:
    """By version: `objectives.summary`, its share of the requests, tokens per second of an answer, and its ratings."""
    ups, downs = _ratings(store, since, until)
    versions = by_version(requests)
    everything = sum(figures["requests"] for figures in versions.values())
    for name, figures in versions.items():
        seconds = sum(r.ms for r in requests if r.version == name and r.answered) / 1000
        figures["share"] = figures["requests"] / everything
        figures["tokens_per_s"] = figures["output_tokens"] / seconds if seconds else None
        figures["up"], figures["down"] = ups[name], downs[name]
    return versions


def _ratings(store: LocalStore, since: datetime, until: datetime) -> tuple[Counter[str], Counter[str]]:
    """Thumbs up and down per version, for requests of this time, whenever they were rated; a key's last word counts."""
    fields = ("http.request.id", "llmops.key.prefix", "llmops.feedback.rating")
    rated = {(id, key): rating for id, key, rating in store.columns(FEEDBACK, fields, timestamp(since)) if rating}
    if not rated:
        return Counter(), Counter()
    answered = store.columns(SERVING, ("http.request.id", "llmops.model.version"), timestamp(since), timestamp(until))
    versions = {id: version for id, version in answered if version}
    counts = {
        word: Counter(versions[id] for (id, _), r in rated.items() if r == word and id in versions)
        for word in ("up", "down")
    }
    return counts["up"], counts["down"]


def _canary(event: Mapping[str, Any]) -> dict[str, Any]:
    names = ("outcome", "share", "numbers")
    facts = {name: event.get(f"llmops.canary.{name}") for name in names}
    why, version = event.get("event.reason", ""), event.get("llmops.model.version", "")
    return {"time": event["@timestamp"], "version": version, "why": why, **facts}


def _stage(event: Mapping[str, Any]) -> dict[str, Any]:
    metrics = event.get("llmops.metrics")
    return {
        "time": event["@timestamp"],
        "stage": event.get("event.action", ""),
        "outcome": event.get("event.outcome", ""),
        "seconds": (event.get("event.duration") or 0) / 1e9,
        "interval": event.get("llmops.interval", ""),
        "artifact": event.get("llmops.artifact", ""),
        "metrics": {k: v for k, v in metrics.items() if isinstance(v, int | float | str)} if metrics else {},
    }


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


def _recent(store: LocalStore, dataset: str) -> list[dict[str, Any]]:
    return list(store.find(dataset, limit=RECENT[dataset], newest_first=True))
