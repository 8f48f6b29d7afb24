"""Alerts about runs of DAGs: one that failed, one that is late, one after which old data could not be removed.

Only Airflow sees these, so its callbacks report them here; severity, silences and receivers are those of all rules.
They are raised where it happens and resolved when a later run of the DAG succeeds; the last kind, when old data could.
"""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from llmops.alerts import ledger
from llmops.alerts.finding import Finding, document
from llmops.alerts.outbox import deliver_all
from llmops.alerts.receivers import emit_alert, receivers_of
from llmops.config import Config, load
from llmops.config.alerts import Rule
from llmops.errors import ConfigError
from llmops.monitoring.datasets import ALERT
from llmops.monitoring.events import timestamp
from llmops.state.database import database_of

log = logging.getLogger(__name__)

FAILED: Rule = "run_failed"
GC_FAILED: Rule = "gc_failed"
LATE: Rule = "run_late"


def alert(rule: Rule, dag: str, run: str, cleared: int, message: str, fields: Mapping[str, Any]) -> None:
    """Raise one alert about a run, and tell receivers at once.

    Telling the same of the same run again changes nothing. A run that somebody cleared, to be run again, is told of
    again. Where the database cannot be used, there is at least an event.

    Args:
        rule: `FAILED`, `GC_FAILED` or `LATE`.
        dag: the DAG.
        run: the run's id.
        cleared: how often the run was cleared.
        message: for a person.
        fields: more that the event says.
    """
    config = settings()
    if rule in config.alerts.off:
        return
    id = uuid.uuid5(uuid.NAMESPACE_URL, "|".join([ALERT, rule, dag, run, str(cleared)])).hex
    finding = Finding(rule, message, subject=dag, details={"llmops.dag": dag, "llmops.run": run, **fields})
    now = datetime.now(UTC)
    try:
        ledger.raise_once(config, finding, id, now)
        deliver_all(database_of(config), receivers_of(config))
    except Exception:
        log.exception("The alert %s about %s of %s cannot be raised; it is an event only", rule, run, dag)
        emit_alert(config.events, document(config, ledger.row_of(finding, id, timestamp(now)), "raised"))


def succeeded(dag: str, *rules: Rule) -> None:
    """What these rules have raised about a DAG is over, since it has succeeded now."""
    config = settings()
    if ledger.over(config, rules, dag, datetime.now(UTC)):
        deliver_all(database_of(config), receivers_of(config))


def settings() -> Config:
    """The configuration; if that is what is wrong, the defaults in the home of the environment."""
    try:
        return load()
    except ConfigError:
        return load(environ={"LLMOPS_HOME": os.environ.get("LLMOPS_HOME", "")})
