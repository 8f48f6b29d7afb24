"""The figures of the dashboard, from a reader of events, as JSON values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Literal

from llmops.events.datasets import ALERT, CANARY, DECAY, DRIFT, GATE, HUB, PIPELINE, SERVING, SINK
from llmops.events.events import format_timestamp
from llmops.events.figures import stages
from llmops.events.figures.requests import Stats
from llmops.events.reader import Reader
from llmops.monitoring.drift.event_fields import read_comparison

TimeSpan = Literal["1h", "24h", "7d", "90d"]

#: span → length of one bucket and number of buckets
SPANS: dict[TimeSpan, tuple[timedelta, int]] = {
    "1h": (timedelta(minutes=1), 60),
    "24h": (timedelta(minutes=30), 48),
    "7d": (timedelta(hours=2), 84),
    "90d": (timedelta(days=1), 90),
}
RECENT = {GATE: 8, CANARY: 8, HUB: 1}  #: latest events that are listed
MAX_ALERTS = 12  #: alerts that are listed
MAX_EVENTS = 200  #: latest events that are read for alerts, drift, sinks and answers from documents
MAX_PASSAGES = 8  #: passages that are listed
DECAY_DAYS = 90
MAX_STAGE_EVENTS = 500  #: latest events of stages that are read; most days have only those of `collect`
MAX_RUNS = 20  #: listed runs of one stage
FRESH_S = 5  #: how long a reading of the stages serves all open dashboards, which reload as often


def read_dashboard(reader: Reader, span: TimeSpan, in_a_row: int, now: datetime | None = None) -> dict[str, Any]:
    """Return totals, series over time, versions, alerts, drift, decay, and the latest stages and decisions.

    Series have one entry per bucket; the last bucket contains `now`. A comparison that differs in `in_a_row`
    consecutive windows is drift.
    """
    now = now or datetime.now(UTC)
    step, count = SPANS[span]
    last = datetime.fromtimestamp(now.timestamp() // step.total_seconds() * step.total_seconds(), UTC)
    first = last - (count - 1) * step
    summary = reader.summarize(first, last + step, step)
    return {
        "now": format_timestamp(now),
        "step_s": int(step.total_seconds()),
        "totals": summary.total.as_json(),
        "series": [
            {"time": format_timestamp(first + n * step), **_format_bucket(b)} for n, b in enumerate(summary.series)
        ],
        "versions": _join_ratings(summary.versions, reader.count_ratings(first, last + step)),
        "stages": _read_last_runs(reader, now),
        "gates": [_format_gate(event) for event in _read_recent(reader, GATE)],
        "canaries": [_format_canary(event) for event in _read_recent(reader, CANARY)],
        "hub": [_format_hub(event) for event in _read_recent(reader, HUB)],
        "alerts": _read_alerts(reader),
        "drift": _read_drift(reader, in_a_row),
        "decay": _read_decay(reader, now),
        "retrieval": _read_retrieval(reader),
        "sinks": _read_sinks(reader),
    }


def _format_bucket(stats: Stats) -> dict[str, Any]:
    names = ("answered", "refused", "failed", "input_tokens", "output_tokens")
    times = {"": stats.latency_ms, "first_": stats.first_token_ms, "queue_": stats.queue_ms}
    percentiles = {f"{prefix}{p}": values[p] for prefix, values in times.items() for p in ("p50", "p95")}
    return {**{name: getattr(stats, name) for name in names}, **percentiles}


def _join_ratings(versions: Mapping[str, Stats], rated: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, Any]]:
    requests = sum(stats.requests for stats in versions.values())
    return {
        name: {
            **stats.as_json(),
            "share": stats.requests / requests,
            "tokens_per_s": stats.answer_tokens / stats.seconds if stats.seconds else None,
            **{word: rated.get(name, {}).get(word, 0) for word in ("up", "down")},
        }
        for name, stats in versions.items()
    }


def _format_canary(event: Mapping[str, Any]) -> dict[str, Any]:
    why, version = event.get("event.reason", ""), event.get("llmops.model.version", "")
    facts = _select(event, "llmops.canary", ("outcome", "share", "numbers"))
    return {"time": event["@timestamp"], "version": version, "why": why, **facts}


def _format_gate(event: Mapping[str, Any]) -> dict[str, Any]:
    names = (
        "outcome", "opponent", "reasons", "metric", "candidate", "opponent_value", "difference", "low", "high",
        "attempt", "level", "left", "power",
    )  # fmt: skip
    version = event.get("llmops.model.version", "")
    return {"time": event["@timestamp"], "version": version, **_select(event, "llmops.gate", names)}


def _format_hub(event: Mapping[str, Any]) -> dict[str, Any]:
    return {"time": event["@timestamp"], **_select(event, "llmops.hub", ("repo", "main"))}


def _read_recent(reader: Reader, dataset: str) -> list[dict[str, Any]]:
    return list(reader.find(dataset, limit=RECENT[dataset], newest_first=True))


def _read_alerts(reader: Reader) -> list[dict[str, Any]]:
    alerts: dict[str, dict[str, Any]] = {}
    for event in reader.find(ALERT, limit=MAX_EVENTS, newest_first=True):
        facts = _select(event, "llmops.alert", ("state", "severity", "subject", "value", "bound", "runbook", "link"))
        alert = alerts.setdefault(
            str(event.get("llmops.alert.id") or event["event.id"]),
            {"rule": event.get("rule.name", ""), "message": event.get("message", ""), "resolved": None, **facts},
        )
        alert["time"] = event["@timestamp"]  # the oldest event, which raised the alert, is the last one here
        if facts["state"] == "resolved":
            alert["resolved"] = event["@timestamp"]
        elif alert["state"] == "resolved":  # the event that raised the alert has the message
            alert["message"] = event.get("message") or alert["message"]
    listed = sorted(alerts.values(), key=lambda alert: alert["state"] not in ("raised", "silenced"))
    return listed[:MAX_ALERTS]


def _read_drift(reader: Reader, in_a_row: int) -> list[dict[str, Any]]:
    """Return the comparisons of the latest window, the differing ones first. `state` is drift, differs or as before."""
    events = list(reader.find(DRIFT, limit=MAX_EVENTS, newest_first=True))
    found = [{**read_comparison(event), **_select(event, "llmops.drift", ("requests", "until"))} for event in events]
    latest = max((one["until"] or "" for one in found), default="")
    in_latest = {
        (one["side"], one["feature"], one["test"]): one for one in found[::-1] if (one["until"] or "") == latest
    }
    for one in in_latest.values():
        drifts = (one["windows"] or 0) >= in_a_row
        one["state"] = "drift" if drifts else "differs" if one["drifted"] else "as before"
    return sorted(in_latest.values(), key=lambda one: (not one["drifted"], -abs(one["effect"] or 0)))


def _read_decay(reader: Reader, now: datetime) -> list[dict[str, Any]]:
    """Return, by metric and set, the daily values of each version over 90 days, and its last slope."""
    days = [(now - timedelta(days=n)).date().isoformat() for n in reversed(range(DECAY_DAYS))]
    panels: dict[tuple[str, str], dict[str, Any]] = {}
    for event in reader.find(DECAY, since=format_timestamp(now - timedelta(days=DECAY_DAYS))):
        facts = _select(event, "llmops.decay", ("metric", "set", "value", "slope", "slope_low", "slope_high"))
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


def _read_retrieval(reader: Reader) -> dict[str, dict[str, int]]:
    """Return how often each outcome of a search for documents occurred lately, and the passages used most."""
    outcomes, passages = Counter[str](), Counter[str]()
    for event in reader.find(SERVING, limit=MAX_EVENTS, newest_first=True):
        if outcome := event.get("llmops.retrieval.outcome"):
            outcomes[outcome] += 1
            passages.update(event.get("llmops.retrieval.passages") or [])
    return {"outcomes": dict(outcomes.most_common()), "passages": dict(passages.most_common(MAX_PASSAGES))}


def _read_sinks(reader: Reader) -> list[dict[str, Any]]:
    sinks: dict[str, dict[str, Any]] = {}
    for event in reader.find(SINK, limit=MAX_EVENTS, newest_first=True):
        facts = _select(event, "llmops.sink", ("name", "waiting", "rejected"))
        last = {"time": event["@timestamp"], "state": event.get("event.action") or event.get("event.outcome") or ""}
        why = event.get("error.message") or event.get("event.reason") or event.get("message") or ""
        sinks.setdefault(str(facts["name"]), {**facts, **last, "why": why})
    return list(sinks.values())


def _select(event: Mapping[str, Any], prefix: str, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: event.get(f"{prefix}.{name}") for name in names}


def _read_last_runs(reader: Reader, now: datetime) -> list[dict[str, Any]]:
    latest: dict[str, dict[str, Any]] = {}
    for run in _read_runs(reader, now):
        latest.setdefault(run["stage"], run)
    shown = ("time", "stage", "outcome", "seconds", "headline")
    return [{name: run[name] for name in shown} for run in latest.values()]


def read_stage(reader: Reader, stage: str, now: datetime) -> dict[str, Any] | None:
    """Return the figures of a stage's latest run with metrics, the changes to the run before, and the latest runs.

    Return None if the stage has not run.
    """
    runs = [run for run in _read_runs(reader, now) if run["stage"] == stage]
    if not runs:
        return None
    measured = [run for run in runs if run["metrics"]] or [runs[0]]
    metrics, before = measured[0]["metrics"], measured[1]["metrics"] if len(measured) > 1 else None
    return {
        "stage": stage,
        "run": measured[0],
        "previous": measured[1] if before else None,
        "rows": stages.format_figures(metrics, before),
        "tables": stages.format_tables(metrics),
        "runs": runs[:MAX_RUNS],
    }


def _read_runs(reader: Reader, now: datetime) -> list[dict[str, Any]]:
    return _read_runs_once(reader, int(now.timestamp() // FRESH_S))


@lru_cache(maxsize=1)
def _read_runs_once(reader: Reader, moment: int) -> list[dict[str, Any]]:
    """Return the latest runs. `moment` is a number that changes every `FRESH_S`."""
    return list(map(_format_run, reader.find(PIPELINE, limit=MAX_STAGE_EVENTS, newest_first=True)))


def _format_run(event: Mapping[str, Any]) -> dict[str, Any]:
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
