"""The figures of the dashboard, from wherever events are read, as JSON values."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Literal

from llmops.drift.event_fields import read_comparison
from llmops.monitoring.datasets import ALERT, CANARY, DECAY, DRIFT, GATE, HUB, PIPELINE, SINK
from llmops.monitoring.events import timestamp
from llmops.monitoring.figures import stages
from llmops.monitoring.figures.requests import Stats
from llmops.monitoring.reader import Reader

Span = Literal["1h", "24h", "7d", "90d"]

#: span → length of one bucket and number of buckets
SPANS: dict[Span, tuple[timedelta, int]] = {
    "1h": (timedelta(minutes=1), 60),
    "24h": (timedelta(minutes=30), 48),
    "7d": (timedelta(hours=2), 84),
    "90d": (timedelta(days=1), 90),
}
RECENT = {GATE: 8, CANARY: 8, HUB: 1}  #: how many of the latest are listed
ALERTS = 12  #: alerts that are listed
READ = 200  #: latest events that alerts, drift and sinks are looked for in
DECAY_DAYS = 90
READ_STAGES = 500  #: latest events of stages that are read; most days have only those of `collect`
RUNS = 20  #: of one stage that are listed
FRESH_S = 5  #: within which all open dashboards are given what was read for the first; they ask so often


def dashboard_figures(reader: Reader, span: Span, in_a_row: int, now: datetime | None = None) -> dict[str, Any]:
    """Return totals, series over time, versions, alerts, drift, decay, and the latest stages and decisions.

    Series have one entry per bucket, the last one being the bucket that `now` is in. A comparison that differs in
    `in_a_row` windows in a row is drift.
    """
    now = now or datetime.now(UTC)
    step, count = SPANS[span]
    last = datetime.fromtimestamp(now.timestamp() // step.total_seconds() * step.total_seconds(), UTC)
    first = last - (count - 1) * step
    found = reader.summarize(first, last + step, step)
    return {
        "now": timestamp(now),
        "step_s": int(step.total_seconds()),
        "totals": found.total.as_json(),
        "series": [{"time": timestamp(first + n * step), **_bucket(b)} for n, b in enumerate(found.series)],
        "versions": _versions(found.versions, reader.count_ratings(first, last + step)),
        "stages": _stage_lines(reader, now),
        "gates": [_gate(event) for event in _recent(reader, GATE)],
        "canaries": [_canary(event) for event in _recent(reader, CANARY)],
        "hub": [_hub(event) for event in _recent(reader, HUB)],
        "alerts": _alerts(reader),
        "drift": _drift(reader, in_a_row),
        "decay": _decay(reader, now),
        "sinks": _sinks(reader),
    }


def _bucket(figures: Stats) -> dict[str, Any]:
    names = ("answered", "refused", "failed", "input_tokens", "output_tokens")
    times = {"": figures.latency_ms, "first_": figures.first_token_ms, "queue_": figures.queue_ms}
    percentiles = {f"{prefix}{p}": values[p] for prefix, values in times.items() for p in ("p50", "p95")}
    return {**{name: getattr(figures, name) for name in names}, **percentiles}


def _versions(versions: Mapping[str, Stats], rated: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, Any]]:
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
    why, version = event.get("event.reason", ""), event.get("llmops.model.version", "")
    facts = _facts(event, "llmops.canary", ("outcome", "share", "numbers"))
    return {"time": event["@timestamp"], "version": version, "why": why, **facts}


def _gate(event: Mapping[str, Any]) -> dict[str, Any]:
    names = (
        "outcome", "opponent", "reasons", "metric", "candidate", "opponent_value", "difference", "low", "high",
        "attempt", "level", "left", "power",
    )  # fmt: skip
    version = event.get("llmops.model.version", "")
    return {"time": event["@timestamp"], "version": version, **_facts(event, "llmops.gate", names)}


def _hub(event: Mapping[str, Any]) -> dict[str, Any]:
    return {"time": event["@timestamp"], **_facts(event, "llmops.hub", ("repo", "main"))}


def _recent(reader: Reader, dataset: str) -> list[dict[str, Any]]:
    return list(reader.find(dataset, limit=RECENT[dataset], newest_first=True))


def _alerts(reader: Reader) -> list[dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for event in reader.find(ALERT, limit=READ, newest_first=True):
        facts = _facts(event, "llmops.alert", ("state", "severity", "subject", "value", "bound", "runbook", "link"))
        one = found.setdefault(
            str(event.get("llmops.alert.id") or event["event.id"]),
            {"rule": event.get("rule.name", ""), "message": event.get("message", ""), "resolved": None, **facts},
        )
        one["time"] = event["@timestamp"]  # in the end, that of the oldest, which has raised it
        if facts["state"] == "resolved":
            one["resolved"] = event["@timestamp"]
        elif one["state"] == "resolved":  # what it was about is in the event that raised it
            one["message"] = event.get("message") or one["message"]
    listed = sorted(found.values(), key=lambda one: one["state"] not in ("raised", "silenced"))
    return listed[:ALERTS]


def _drift(reader: Reader, in_a_row: int) -> list[dict[str, Any]]:
    """Return the comparisons of the latest window, those that differ first; `state` is drift, differs or as before."""
    latest = list(reader.find(DRIFT, limit=READ, newest_first=True))
    found = [{**read_comparison(event), **_facts(event, "llmops.drift", ("requests", "until"))} for event in latest]
    window = max((one["until"] or "" for one in found), default="")
    of_window = {
        (one["side"], one["feature"], one["test"]): one for one in found[::-1] if (one["until"] or "") == window
    }
    for one in of_window.values():
        drifts = (one["windows"] or 0) >= in_a_row
        one["state"] = "drift" if drifts else "differs" if one["drifted"] else "as before"
    return sorted(of_window.values(), key=lambda one: (not one["drifted"], -abs(one["effect"] or 0)))


def _decay(reader: Reader, now: datetime) -> list[dict[str, Any]]:
    """Return by metric and set a value per day and version over 90 days, and the last slope of each version."""
    days = [(now - timedelta(days=n)).date().isoformat() for n in reversed(range(DECAY_DAYS))]
    panels: dict[tuple[str, str], dict[str, Any]] = {}
    for event in reader.find(DECAY, since=timestamp(now - timedelta(days=DECAY_DAYS))):
        facts = _facts(event, "llmops.decay", ("metric", "set", "value", "slope", "slope_low", "slope_high"))
        version, day = str(event.get("llmops.model.version") or ""), event["@timestamp"][:10]
        panel = panels.setdefault(
            (str(facts["metric"] or ""), str(facts["set"] or "")),
            {"metric": facts["metric"] or "", "set": facts["set"] or "", "versions": {}, "values": {}},
        )
        panel["values"].setdefault(day, {})[version] = facts["value"]
        panel["versions"][version] = {name: facts[name] for name in ("slope", "slope_low", "slope_high")}
    return [
        {
            **panel,
            "values": [
                {"time": f"{day}T00:00:00.000Z", **{v: panel["values"].get(day, {}).get(v) for v in panel["versions"]}}
                for day in days
            ],
        }
        for _, panel in sorted(panels.items())
    ]


def _sinks(reader: Reader) -> list[dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for event in reader.find(SINK, limit=READ, newest_first=True):
        facts = _facts(event, "llmops.sink", ("name", "waiting", "rejected"))
        last = {"time": event["@timestamp"], "state": event.get("event.action") or event.get("event.outcome") or ""}
        why = event.get("error.message") or event.get("event.reason") or event.get("message") or ""
        found.setdefault(str(facts["name"]), {**facts, **last, "why": why})
    return list(found.values())


def _facts(event: Mapping[str, Any], prefix: str, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: event.get(f"{prefix}.{name}") for name in names}


def _stage_lines(reader: Reader, now: datetime) -> list[dict[str, Any]]:
    latest: dict[str, dict[str, Any]] = {}
    for run in _runs(reader, now):
        latest.setdefault(run["stage"], run)
    shown = ("time", "stage", "outcome", "seconds", "headline")
    return [{name: run[name] for name in shown} for run in latest.values()]


def stage_figures(reader: Reader, stage: str, now: datetime) -> dict[str, Any] | None:
    """Return the figures of a stage; None if it has not run.

    They are those of the latest run with metrics, those of the run before it, and a list of the latest runs.
    """
    runs = [run for run in _runs(reader, now) if run["stage"] == stage]
    if not runs:
        return None
    measured = [run for run in runs if run["metrics"]] or [runs[0]]
    metrics, before = measured[0]["metrics"], measured[1]["metrics"] if len(measured) > 1 else None
    return {
        "stage": stage,
        "of": measured[0],
        "before": measured[1] if before else None,
        "rows": stages.format_figures(metrics, before),
        "parts": stages.format_tables(metrics),
        "runs": runs[:RUNS],
    }


def _runs(reader: Reader, now: datetime) -> list[dict[str, Any]]:
    return _read(reader, int(now.timestamp() // FRESH_S))


@lru_cache(maxsize=1)
def _read(reader: Reader, moment: int) -> list[dict[str, Any]]:
    """Return the latest runs; `moment` is a number that changes every `FRESH_S`."""
    return list(map(_run, reader.find(PIPELINE, limit=READ_STAGES, newest_first=True)))


def _run(event: Mapping[str, Any]) -> dict[str, Any]:
    stage, metrics = event.get("event.action", ""), event.get("llmops.metrics") or {}
    error, figure = event.get("error.message", ""), stages.format_headline(stage, metrics)
    return {
        "time": event["@timestamp"],
        "stage": stage,
        "outcome": event.get("event.outcome", ""),
        "seconds": (event.get("event.duration") or 0) / 1e9,
        "interval": event.get("llmops.interval", ""),
        "artifact": event.get("llmops.artifact", ""),
        "error": error,
        "metrics": metrics,
        "headline": error or (" ".join(filter(None, figure[:3])) if figure else ""),
    }
