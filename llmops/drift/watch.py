"""Drift: the last whole window of the champion's requests, compared with its reference; one event a comparison.

Windows follow one another without a gap or an overlap (of 24 hours: days of UTC), so that each is a look of its own. A
comparison that differs in `alerts.drift_windows` of them in a row is called drift, and is an alert. A window that was
judged is not judged again.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any

from llmops.config import Config
from llmops.drift.judge import Comparison, compare
from llmops.drift.reference import Against, NoReferenceError, reference_of
from llmops.drift.sample import SIDES, of_events
from llmops.drift.told import NAMES, sentence, told
from llmops.errors import ConfigError
from llmops.monitoring.datasets import DRIFT
from llmops.monitoring.events import emit_all, timestamp
from llmops.monitoring.reader import Reader, reader_of
from llmops.registry.registry import registry_of

_BACK = 7  #: windows among which the one before is looked for: those with few requests are passed over


def watch_drift(
    config: Config, now: datetime | None = None, against: Against | None = None, tell: bool = True
) -> dict[str, Any]:
    """Judge the last window that has ended.

    What waits in the spool is not seen: drain it first.

    Args:
        now: the window must have ended by then.
        against: what to compare with; None: see `reference_of`.
        tell: emit events.

    Returns:
        `state`: `judged`, `too few`, `no reference`, `no champion` or `no reader`, with `why` where nothing is
        judged; the window; `comparisons`, as JSON values; and `drift`: those that differ in as many windows in a row
        as raise the alert.
    """
    champion = registry_of(config).champion()
    if champion is None:
        return {"state": "no champion", "why": "nothing is served yet"}
    try:
        reader = reader_of(config)
    except ConfigError as error:
        return {"state": "no reader", "why": str(error).rstrip(".")}
    length = timedelta(hours=config.monitoring.drift_hours)
    until = _whole(now or datetime.now(UTC), length)
    since = until - length
    facts = {"version": champion.name, "since": timestamp(since), "until": timestamp(until)}
    try:
        reference = reference_of(config, reader, champion, since, against)
    except NoReferenceError as error:
        return {"state": "no reference", **facts, "why": str(error)}
    facts["reference"] = reference.name
    window = of_events(reader, facts["since"], facts["until"], champion.name)
    if len(window) < config.monitoring.drift_requests:
        why = f"{len(window)} requests, fewer than monitoring.drift_requests {config.monitoring.drift_requests}"
        return {"state": "too few", **facts, "requests": len(window), "why": why}
    earlier = list(_told(reader, facts, since - _BACK * length))
    comparisons = [{name: one[name] for name in NAMES} for one in earlier if one["since"] == facts["since"]]
    if not comparisons:
        made = compare(reference.sample, window, int(since.timestamp()))
        comparisons = [_with_streak(one, earlier) for one in made]
        if tell:
            emit_all(config.events, DRIFT, [_event(config, facts, len(window), one) for one in comparisons])
    comparisons.sort(key=lambda one: (SIDES.index(one["side"]), one["feature"]))
    drift = [one for one in comparisons if one["windows"] >= config.alerts.drift_windows]
    return {"state": "judged", **facts, "requests": len(window), "comparisons": comparisons, "drift": drift}


def _told(reader: Reader, facts: Mapping[str, str], back: datetime) -> Iterator[dict[str, Any]]:
    """What was told of this version and reference, of windows from `back` on, in order of the windows."""
    found = [
        told(event)
        for event in reader.find(DRIFT, timestamp(back))
        if event.get("llmops.model.version") == facts["version"]
        and event.get("llmops.drift.reference") == facts["reference"]
        and timestamp(back) <= event["llmops.drift.since"] <= facts["since"]
    ]
    return iter(sorted(found, key=lambda one: one["since"]))


def _with_streak(comparison: Comparison, earlier: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """With the number of windows in a row in which it differs; windows with few requests are passed over."""
    values = asdict(comparison) | {"unlike": list(comparison.unlike), "topics": list(comparison.topics)}
    same = [one for one in earlier if (one["side"], one["feature"]) == (comparison.side, comparison.feature)]
    before = same[-1]["windows"] or 0 if same else 0
    return {**values, "windows": before + 1 if comparison.drifted else 0}


def _event(config: Config, facts: Mapping[str, str], requests: int, comparison: Mapping[str, Any]) -> dict[str, Any]:
    identity = "|".join([DRIFT, *facts.values(), comparison["side"], comparison["feature"]])
    return {
        "event.id": str(uuid.uuid5(uuid.NAMESPACE_URL, identity)),
        "event.action": "compare",
        "event.outcome": "success",
        "message": sentence(comparison),
        "llmops.model.name": config.release.name,
        "llmops.model.version": facts["version"],
        "llmops.drift.requests": requests,
        **{f"llmops.drift.{name}": facts[name] for name in ("since", "until", "reference")},
        **{f"llmops.drift.{name}": comparison[name] for name in NAMES},
    }


def _whole(now: datetime, length: timedelta) -> datetime:
    """The end of the last window that has ended."""
    seconds = length.total_seconds()
    return datetime.fromtimestamp(now.timestamp() // seconds * seconds, UTC)
