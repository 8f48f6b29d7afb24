"""What watches the model has found, for the dashboard: alerts, drift, decay, and sinks that fail."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from llmops.monitoring.datasets import ALERT, DECAY, DRIFT, SINK
from llmops.monitoring.events import timestamp
from llmops.monitoring.reader import Reader

ALERTS = 12  #: alerts that are listed
READ = 200  #: latest events that alerts, drift and sinks are looked for in
DECAY_DAYS = 90


def alerts(reader: Reader) -> list[dict[str, Any]]:
    """The latest alerts, those that go on first, each as it is now; it may have been raised, silenced and resolved."""
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


def drift(reader: Reader, in_a_row: int) -> list[dict[str, Any]]:
    """The comparisons of the latest window, those that differ first; `state` is `drift`, `differs` or `as before`."""
    latest = list(reader.find(DRIFT, limit=READ, newest_first=True))
    names = (
        "feature",
        "side",
        "test",
        "effect",
        "q_value",
        "drifted",
        "windows",
        "requests",
        "topics",
        "since",
        "until",
    )
    found = [_facts(event, "llmops.drift", names) for event in latest]
    window = max((one["until"] or "" for one in found), default="")
    of_window = {
        (one["side"], one["feature"], one["test"]): one for one in found[::-1] if (one["until"] or "") == window
    }
    for one in of_window.values():
        drifts = (one["windows"] or 0) >= in_a_row
        one["state"] = "drift" if drifts else "differs" if one["drifted"] else "as before"
    return sorted(of_window.values(), key=lambda one: (not one["drifted"], -abs(one["effect"] or 0)))


def decay(reader: Reader, now: datetime) -> list[dict[str, Any]]:
    """By metric and set: a value per day and version over 90 days, and the last slope of each version."""
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


def sinks(reader: Reader) -> list[dict[str, Any]]:
    """What each sink has told last."""
    found: dict[str, dict[str, Any]] = {}
    for event in reader.find(SINK, limit=READ, newest_first=True):
        facts = _facts(event, "llmops.sink", ("name", "waiting", "rejected"))
        told = {"time": event["@timestamp"], "state": event.get("event.action") or event.get("event.outcome") or ""}
        why = event.get("error.message") or event.get("event.reason") or event.get("message") or ""
        found.setdefault(str(facts["name"]), {**facts, **told, "why": why})
    return list(found.values())


def _facts(event: Mapping[str, Any], prefix: str, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: event.get(f"{prefix}.{name}") for name in names}
