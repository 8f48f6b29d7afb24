"""Alerts about runs of DAGs: failed runs, late runs, and runs after which old data could not be removed.

Only Airflow sees these, so its callbacks report them here. Severities, silences and receivers are those of all rules.
An alert is resolved when a later run of the DAG, or removal of old data, succeeds.
"""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from llmops.config import Config, load
from llmops.config.alerts import Rule
from llmops.events.datasets import ALERT
from llmops.events.events import format_timestamp
from llmops.frame.errors import ConfigError
from llmops.monitoring.alerts import lifecycle
from llmops.monitoring.alerts.breach import Breach, build_message
from llmops.monitoring.alerts.outbox import deliver_to_all
from llmops.monitoring.alerts.receivers import emit_alert, make_receivers
from llmops.state.database import database_of

log = logging.getLogger(__name__)

RUN_FAILED: Rule = "run_failed"
GC_FAILED: Rule = "gc_failed"
RUN_LATE: Rule = "run_late"


def raise_run_alert(rule: Rule, dag: str, run: str, cleared: int, message: str, fields: Mapping[str, Any]) -> None:
    """Raise an alert about a run, and notify receivers at once.

    A repetition for the same run changes nothing. After a run was cleared, to run again, it can raise a new alert. If
    the database cannot be used, at least an event is emitted.
    """
    config = load_config()
    if rule in config.alerts.off:
        return
    id = uuid.uuid5(uuid.NAMESPACE_URL, "|".join([ALERT, rule, dag, run, str(cleared)])).hex
    breach = Breach(rule, message, subject=dag, details={"llmops.dag": dag, "llmops.run": run, **fields})
    now = datetime.now(UTC)
    try:
        lifecycle.raise_alert_once(config, breach, id, now)
        deliver_to_all(database_of(config), make_receivers(config))
    except Exception:
        log.exception("The alert %s about %s of %s cannot be raised; it is an event only", rule, run, dag)
        emit_alert(
            config.events, build_message(config, lifecycle.build_row(breach, id, format_timestamp(now)), "raised")
        )


def resolve_run_alerts(dag: str, *rules: Rule) -> None:
    """Resolve these rules' alerts about a DAG, after a success."""
    config = load_config()
    if lifecycle.resolve_alerts(config, rules, dag, datetime.now(UTC)):
        deliver_to_all(database_of(config), make_receivers(config))


def load_config() -> Config:
    """Return the configuration; if it cannot be read, the defaults with the home from the environment."""
    try:
        return load()
    except ConfigError:
        return load(environ={"LLMOPS_HOME": os.environ.get("LLMOPS_HOME", "")})
