"""Alerts about runs: one that failed, one that is late, one after which old data could not be removed. They go the way
of all events: spool, sinks, dashboard.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmops.config import load
from llmops.errors import ConfigError
from llmops.monitoring.datasets import ALERT
from llmops.monitoring.events import emit

FAILED = "run_failed"
GC_FAILED = "gc_failed"
LATE = "run_late"


def alert(rule: str, dag: str, run: str, cleared: int, message: str, fields: Mapping[str, Any]) -> str:
    """Put one alert about a run into the spool; returns its `event.id`.

    Telling the same of the same run again repeats the id, so that it is stored once. A run that somebody cleared, to
    be run again, is told of again.

    Args:
        rule: `FAILED`, `GC_FAILED` or `LATE`.
        dag: the DAG.
        run: the run's id.
        cleared: how often the run was cleared.
        message: for a person.
        fields: more fields of the event.
    """
    identity = "|".join([ALERT, rule, dag, run, str(cleared)])
    return emit(
        events_folder(),
        ALERT,
        {
            "event.id": str(uuid.uuid5(uuid.NAMESPACE_URL, identity)),
            "event.kind": "alert",
            "rule.name": rule,
            "message": message,
            "llmops.dag": dag,
            "llmops.run": run,
            **fields,
        },
    )


def events_folder() -> Path:
    """The events folder, also when the configuration is what is wrong: then the home's of the environment."""
    try:
        return load().events
    except ConfigError:
        return load(environ={"LLMOPS_HOME": os.environ.get("LLMOPS_HOME", "")}).events
