"""Judging of all rules at a moment or for a past period, and a report of the alerts."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from llmops.config import Config
from llmops.events.events import timestamp
from llmops.events.figures.requests import Stats
from llmops.events.reader import Reader, reader_of
from llmops.frame.errors import ConfigError
from llmops.monitoring.alerts import lifecycle
from llmops.monitoring.alerts.breach import Breach, machine_id
from llmops.monitoring.alerts.conditions import read_heartbeats
from llmops.monitoring.alerts.outbox import deliver_all
from llmops.monitoring.alerts.receivers import receivers_of
from llmops.monitoring.alerts.rules import RULES
from llmops.monitoring.alerts.traffic import Sources
from llmops.state.database import database_of

log = logging.getLogger(__name__)


class Judge:
    """A judge of a configuration's rules. For one thread.

    `waiting` returns the number of requests that wait for this process' engines. Without a reader, rules about events
    are not judged.
    """

    def __init__(self, config: Config, reader: Reader | None = None, waiting: Callable[[], int] | None = None) -> None:
        self._config, self._sources = config, Sources(config, reader or _find_reader(config), waiting)

    def judge(self, now: datetime | None = None) -> list[dict[str, Any]]:
        """Judge all rules, and return raised and resolved alerts. A rule that cannot be judged changes nothing.

        Raises:
            StateError: if the database cannot be used.
        """
        now = now or datetime.now(UTC)
        breaches: list[Breach] = []
        judged: set[str] = set()
        for check in dict.fromkeys(row.check for row in RULES.values() if row.check):
            rules = [rule for rule, row in RULES.items() if row.check is check]
            try:
                if (found := check(self._sources, now)) is not None:
                    breaches += found
                    judged.update(rules)
            except Exception:  # for example, a reader is down: the other rules are still judged
                log.exception("The rules %s cannot be judged", ", ".join(rules))
        breaches = [breach for breach in breaches if breach.rule not in self._config.alerts.off]
        return lifecycle.update(self._config, breaches, judged, now, machine_id(self._config))


def catch_up(config: Config, since: datetime, until: datetime) -> list[dict[str, Any]]:
    """Judge a past period, window by window, and notify receivers.

    Times that were already judged (by the serving app, for example) are skipped, so a repetition changes nothing.

    Returns:
        The raised and resolved alerts.
    """
    changes: list[dict[str, Any]] = []
    known = read_heartbeats(config).get(lifecycle.JUDGE_HEARTBEAT)
    step = timedelta(minutes=config.alerts.window_minutes)
    moment = max(since, datetime.fromisoformat(known)) if known else since
    judge = Judge(config)
    while moment < until:
        moment = min(moment + step, until)
        changes += judge.judge(moment)
    deliver_all(database_of(config), receivers_of(config))
    return changes


def build_report(config: Config, since: datetime, until: datetime, reader: Reader | None = None) -> dict[str, Any]:
    """Return figures of the requests with `since <= time < until`, and the alerts that were open in that time.

    It judges nothing: `catch_up` first. Events that wait in the spool are not seen: `spool.drain` first.

    Returns:
        Figures of all requests; `versions`: the same per version; `objectives`; `alerts`: rule, subject, severity,
        message and times of each. JSON values, null without measurement.

    Raises:
        ConfigError: if no configured sink can be read.
    """
    found = (reader or reader_of(config)).summarize(since, until)
    names = ("id", "rule", "subject", "severity", "raised", "resolved")
    return {
        "since": timestamp(since),
        "until": timestamp(until),
        **_summarize(found.total),
        "versions": {version: _summarize(figures) for version, figures in found.versions.items()},
        "objectives": config.monitoring.model_dump(include={"latency_p95_ms", "error_rate"}),
        "alerts": [
            {**{name: row[name] for name in names}, "message": row["finding"]["message"]}
            for row in lifecycle.read_open_between(config, since, until)
        ],
    }


def _summarize(figures: Stats) -> dict[str, Any]:
    names = ("requests", "answered", "refused", "failed", "error_rate", "latency_ms", "input_tokens", "output_tokens")
    return {name: getattr(figures, name) for name in names}


def _find_reader(config: Config) -> Reader | None:
    try:
        return reader_of(config)
    except ConfigError as error:
        log.warning("Rules about events are not judged: %s", error)
        return None
