"""Checking of all rules at a moment, and a report of the alerts."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from llmops.config import Config
from llmops.events.events import format_timestamp
from llmops.events.figures.requests import Stats
from llmops.events.reader import Reader, make_reader
from llmops.frame.errors import ConfigError
from llmops.monitoring.alerts import lifecycle
from llmops.monitoring.alerts.breach import Breach, get_machine_id
from llmops.monitoring.alerts.outbox import deliver_to_all
from llmops.monitoring.alerts.receivers import make_receivers
from llmops.monitoring.alerts.request_checks import CheckInputs
from llmops.monitoring.alerts.rules import RULES
from llmops.state.database import database_of

log = logging.getLogger(__name__)


class RuleChecker:
    """A checker of a configuration's rules. For one thread.

    `count_waiting` returns the number of requests that wait for this process' engines. Without a reader, rules about
    events are not checked.
    """

    def __init__(
        self, config: Config, reader: Reader | None = None, count_waiting: Callable[[], int] | None = None
    ) -> None:
        self._config, self._inputs = config, CheckInputs(config, reader or _make_reader_or_none(config), count_waiting)

    def check(self, now: datetime | None = None) -> list[dict[str, Any]]:
        """Check all rules, and return raised and resolved alerts. A rule that cannot be checked changes nothing.

        Raises:
            StateError: if the database cannot be used.
        """
        now = now or datetime.now(UTC)
        breaches: list[Breach] = []
        checked: set[str] = set()
        for check in dict.fromkeys(row.check for row in RULES.values() if row.check):
            rules = [rule for rule, row in RULES.items() if row.check is check]
            try:
                if (new_breaches := check(self._inputs, now)) is not None:
                    breaches += new_breaches
                    checked.update(rules)
            except Exception:  # for example, a reader is down: the other rules are still checked
                log.exception("The rules %s cannot be judged", ", ".join(rules))
        breaches = [breach for breach in breaches if breach.rule not in self._config.alerts.off]
        return lifecycle.update_alerts(self._config, breaches, checked, now, get_machine_id(self._config))


def check_once(config: Config) -> list[dict[str, Any]]:
    """Check all rules now, notify receivers, and return raised and resolved alerts."""
    changes = RuleChecker(config).check()
    deliver_to_all(database_of(config), make_receivers(config))
    return changes


def build_alert_report(
    config: Config, since: datetime, until: datetime, reader: Reader | None = None
) -> dict[str, Any]:
    """Return figures of the requests with `since <= time < until`, and the alerts that were open in that time.

    It checks no rule. Events that wait in the spool are not seen: call `drain_spool` first.

    Returns:
        Figures of all requests; `versions`: the same per version; `objectives`; `alerts`: rule, subject, severity,
        message and times of each. JSON values, null without measurement.

    Raises:
        ConfigError: if no configured sink can be read.
    """
    summary = (reader or make_reader(config)).summarize(since, until)
    names = ("id", "rule", "subject", "severity", "raised", "resolved")
    return {
        "since": format_timestamp(since),
        "until": format_timestamp(until),
        **_select_figures(summary.total),
        "versions": {version: _select_figures(figures) for version, figures in summary.versions.items()},
        "objectives": config.monitoring.model_dump(include={"latency_p95_ms", "error_rate"}),
        "alerts": [
            {**{name: row[name] for name in names}, "message": row["finding"]["message"]}
            for row in lifecycle.read_alerts_between(config, since, until)
        ],
    }


def _select_figures(figures: Stats) -> dict[str, Any]:
    names = ("requests", "answered", "refused", "failed", "error_rate", "latency_ms", "input_tokens", "output_tokens")
    return {name: getattr(figures, name) for name in names}


def _make_reader_or_none(config: Config) -> Reader | None:
    try:
        return make_reader(config)
    except ConfigError as error:
        log.warning("Rules about events are not judged: %s", error)
        return None
