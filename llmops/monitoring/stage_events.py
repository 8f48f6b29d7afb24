"""The events of the dataset `llmops.pipeline`: a stage has made an artifact, or failed."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from pathlib import Path

from llmops.artifacts import Record
from llmops.errors import TransientError, said
from llmops.monitoring.datasets import PIPELINE
from llmops.monitoring.events import emit

log = logging.getLogger(__name__)


def made(events: Path, record: Record) -> None:
    """A stage has made the artifact of this record; `events` is their folder."""
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


def failed(
    events: Path, stage: str, interval: str, run: str, attempt: int, started: datetime, error: Exception
) -> None:
    """A stage has failed; raises nothing, since its own error is what must be told.

    Args:
        events: their folder.
        stage, interval, run: what was run.
        attempt: which try of the orchestrator's it was.
        started: when.
        error: why.
    """
    fields = {
        "event.action": stage,
        "event.duration": int((datetime.now(UTC) - started).total_seconds() * 1e9),
        "event.outcome": "failure",
        "error.type": type(error).__name__,
        "error.message": said(error),
        "llmops.interval": interval,
        "llmops.run": run,
        "llmops.attempt": attempt,
        "llmops.transient": isinstance(error, TransientError),
    }
    try:
        emit(events, PIPELINE, fields)
    except Exception:  # the disk that is full, say
        log.exception("The failure of %s could not be put into the spool", stage)
