"""The figures of the drift page, from the events: the last judged window, and the windows before it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from llmops.events.datasets import DRIFT, TEXT
from llmops.events.events import format_timestamp
from llmops.events.reader import Reader
from llmops.monitoring.drift.event_fields import read_comparison

LOOKBACK = timedelta(days=30)
MAX_WINDOWS = 30  #: listed windows
MAX_EXAMPLES = 12

Events = Sequence[Mapping[str, Any]]


def read_drift(reader: Reader, in_a_row: int, now: datetime | None = None) -> dict[str, Any]:
    """Return the last window's comparisons, the differing ones first, and the number of differences in earlier windows.

    The result also has the moved topics and the requests unlike the reference. A comparison that differs in `in_a_row`
    windows is drift. `window` is None if no window was judged.
    """
    windows: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for event in reader.find(DRIFT, format_timestamp((now or datetime.now(UTC)) - LOOKBACK)):
        windows.setdefault(tuple(str(value) for value in _identify_window(event).values()), []).append(event)
    if not windows:
        return {"window": None, "comparisons": [], "topics": [], "examples": [], "nearest": [], "windows": []}
    listed = [windows[key] for key in sorted(windows)[-MAX_WINDOWS:]]
    comparisons = [read_comparison(event) for event in listed[-1]]
    comparisons.sort(key=lambda one: (not one["drifted"], one["q_value"] if one["q_value"] is not None else 1.0))
    examples, nearest = _find_most_different(reader, comparisons, _identify_window(listed[-1][0]))
    return {
        "window": {**_identify_window(listed[-1][0]), "requests": listed[-1][0].get("llmops.drift.requests")},
        "in_a_row": in_a_row,
        "comparisons": comparisons,
        "topics": [moved for one in comparisons if one["feature"] == "topics" for moved in _list_moved_topics(one)],
        "examples": examples,
        "nearest": nearest,
        "windows": [_summarize_window(events, in_a_row) for events in listed],
    }


def _identify_window(event: Mapping[str, Any]) -> dict[str, Any]:
    facts = {name: event.get(f"llmops.drift.{name}") for name in ("since", "until", "reference")}
    return {**facts, "version": event.get("llmops.model.version")}


def _summarize_window(events: Events, in_a_row: int) -> dict[str, Any]:
    found = [read_comparison(event) for event in events]
    return {
        **_identify_window(events[0]),
        "compared": len(found),
        "differ": sum(bool(one["drifted"]) for one in found),
        "drift": sum((one["windows"] or 0) >= in_a_row for one in found),
    }


def _list_moved_topics(comparison: Mapping[str, Any]) -> list[dict[str, Any]]:
    shares = comparison["shares"]
    rows = dict(zip(shares["bins"], zip(shares["reference"], shares["window"], strict=True), strict=True))
    return [
        {"side": comparison["side"], "name": name, "before": rows[name][0], "now": rows[name][1]}
        for name in comparison["topics"] or []
        if name in rows
    ]


def _find_most_different(
    reader: Reader, comparisons: Events, facts: Mapping[str, Any]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the stored texts of the requests that differ most from the reference, and the topics nearest to them."""
    wanted = [id for one in comparisons for id in one["unlike"] or []]
    if not wanted:
        return [], []
    events = {
        str(event["http.request.id"]): event
        for event in reader.find(TEXT, facts["since"], facts["until"])
        if event.get("http.request.id") in set(wanted)
    }
    found = [events[id] for id in wanted if id in events]
    topics = Counter(str(topic) for event in found for topic in (event.get("llmops.prompt.topics") or ["none"])[:1])
    kept = [event for event in found if event.get("llmops.prompt.text")]
    return (
        [
            {"time": e["@timestamp"], "text": e["llmops.prompt.text"], "topics": e.get("llmops.prompt.topics") or []}
            for e in kept[:MAX_EXAMPLES]
        ],
        [{"name": name, "count": count} for name, count in topics.most_common(MAX_EXAMPLES)],
    )
