"""Events about pipeline stages: a stage made an artifact, or failed (`llmops.pipeline`)."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from pathlib import Path

from llmops.events.datasets import PIPELINE
from llmops.events.events import emit
from llmops.frame.artifacts import Record
from llmops.frame.errors import TransientError, describe_error

log = logging.getLogger(__name__)


def emit_success(events: Path, record: Record) -> None:
    """Emit the event that a stage made an artifact. `events` is the events folder, `record` the artifact's record."""
    took = datetime.fromisoformat(record.finished) - datetime.fromisoformat(record.started)
    fields = {
        "event.action": record.stage,
        "event.duration": int(took.total_seconds() * 1e9),
        "event.outcome": "success",
        "llmops.artifact": f"{record.stage}/{record.fingerprint}",
        "llmops.interval": record.interval,
        "llmops.run": record.run,
        "llmops.metrics": record.metrics,
    }
    emit(events, PIPELINE, fields)


def emit_failure(
    events: Path, stage: str, interval: str, run: str, attempt: int, started: datetime, error: Exception
) -> None:
    """Emit the event that a stage failed. Never raise: the stage's own error must reach the user."""
    fields = {
        "event.action": stage,
        "event.duration": int((datetime.now(UTC) - started).total_seconds() * 1e9),
        "event.outcome": "failure",
        "error.type": type(error).__name__,
        "error.message": describe_error(error),
        "llmops.interval": interval,
        "llmops.run": run,
        "llmops.attempt": attempt,
        "llmops.transient": isinstance(error, TransientError),
    }
    try:
        emit(events, PIPELINE, fields)
    except Exception:  # a full disk, for example
        log.exception("The failure of %s could not be put into the spool", stage)
