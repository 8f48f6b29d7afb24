"""The stages of the pipeline as the dashboard shows them: one line a stage, and a page for the figures of each."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any

from llmops.monitoring.datasets import PIPELINE
from llmops.monitoring.figures import stages as figures
from llmops.monitoring.reader import Reader

READ = 500  #: latest events that are read; most days have only those of `collect`
RUNS = 20  #: of one stage that are listed
FRESH_S = 5  #: within which all open dashboards are given what was read for the first; they ask so often


def stage_lines(reader: Reader, now: datetime) -> list[dict[str, Any]]:
    """Return the latest run of each stage with one of its figures, the latest stage first."""
    latest: dict[str, dict[str, Any]] = {}
    for run in _runs(reader, now):
        latest.setdefault(run["stage"], run)
    shown = ("time", "stage", "outcome", "seconds", "headline")
    return [{name: run[name] for name in shown} for run in latest.values()]


def stage_figures(reader: Reader, stage: str, now: datetime) -> dict[str, Any] | None:
    """Return the figures of the latest run that measured something, beside those of the run before, and the latest
    runs; None if the stage has not run."""
    runs = [run for run in _runs(reader, now) if run["stage"] == stage]
    if not runs:
        return None
    measured = [run for run in runs if run["metrics"]] or [runs[0]]
    metrics, before = measured[0]["metrics"], measured[1]["metrics"] if len(measured) > 1 else None
    return {
        "stage": stage,
        "of": measured[0],
        "before": measured[1] if before else None,
        "rows": figures.rows(metrics, before),
        "parts": figures.parts(metrics),
        "runs": runs[:RUNS],
    }


def _runs(reader: Reader, now: datetime) -> list[dict[str, Any]]:
    return _read(reader, int(now.timestamp() // FRESH_S))


@lru_cache(maxsize=1)
def _read(reader: Reader, moment: int) -> list[dict[str, Any]]:
    """Return the latest runs; `moment` is a number that changes every `FRESH_S`."""
    return list(map(_run, reader.find(PIPELINE, limit=READ, newest_first=True)))


def _run(event: Mapping[str, Any]) -> dict[str, Any]:
    stage, metrics = event.get("event.action", ""), event.get("llmops.metrics") or {}
    error, figure = event.get("error.message", ""), figures.headline(stage, metrics)
    return {
        "time": event["@timestamp"],
        "stage": stage,
        "outcome": event.get("event.outcome", ""),
        "seconds": (event.get("event.duration") or 0) / 1e9,
        "interval": event.get("llmops.interval", ""),
        "artifact": event.get("llmops.artifact", ""),
        "error": error,
        "metrics": metrics,
        "headline": error or (" ".join(filter(None, figure[:3])) if figure else ""),
    }
