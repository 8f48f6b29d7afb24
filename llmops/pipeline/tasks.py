"""Shared settings of the DAGs: retries, pool, assets, and callbacks for failed and late runs."""

import asyncio
import json
import logging
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import (  # type: ignore[attr-defined]  # the stub of Airflow 3.3 lacks deadlines
    AsyncCallback,
    DeadlineAlert,
    DeadlineReference,
    ExceptionRetryPolicy,
    RetryAction,
    RetryRule,
)

from llmops.config import Config, load
from llmops.config.alerts import Rule
from llmops.frame.artifacts import read_record
from llmops.frame.errors import ConfigError, LlmopsError, TransientError, describe_error
from llmops.monitoring.alerts import lifecycle, run_alerts
from llmops.monitoring.alerts.run_alerts import GC_FAILED, RUN_FAILED, RUN_LATE, raise_run_alert
from llmops.pipeline.pool import POOL

__all__ = [
    "ASSETS",
    "DECLINE",
    "DEFAULT_ARGS",
    "MODEL",
    "POOL",
    "describe_trigger",
    "load_settings",
    "make_asset_extra",
    "make_deadline",
    "report_failed_gc",
    "report_failed_run",
    "report_failed_task",
    "resolve_gc_alert",
    "resolve_run_alerts",
]

log = logging.getLogger(__name__)

DATASET, MODEL = "llmops://dataset", "llmops://model"  #: the assets that the pipeline publishes
DECLINE = "llmops://decline"  #: the asset of alerts about drift or decay
ASSETS = {"annotate": DATASET, "release": MODEL}  #: stage → asset of its artifact


def make_asset_extra(artifact: Path, run: str) -> dict[str, Any]:
    """Return the data of an artifact's asset event: path, version and interval; empty if another run made it.

    A reused artifact gets no event, because DAGs scheduled on the asset would repeat their work.
    """
    record = read_record(artifact)
    if record.run != run:
        return {}
    extra = {"path": str(artifact), "version": record.fingerprint, "interval": record.interval}
    if record.stage == "release":
        decision = json.loads((artifact / "decision.json").read_text(encoding="utf-8"))
        extra |= {name: decision[name] for name in ("model", "version", "outcome", "instead") if name in decision}
    return extra


def describe_trigger(run: Any) -> str:
    """Return the origin of a run, for histories: the user who triggered it, if any, and the run's id."""
    by = getattr(run, "triggering_user_name", None)
    return f"{by}, run {run.run_id}" if by else f"run {run.run_id}"


def report_failed_task(context: Mapping[str, Any]) -> None:
    """Report a failed task. This is Airflow's `on_failure_callback` of a task, called after its last try."""
    _report_failure(context, context.get("exception"))


def report_failed_run(context: Mapping[str, Any]) -> None:
    """Report a failed run. This is Airflow's `on_failure_callback` of a DAG; it covers killed task processes, too."""
    _report_failure(context, None)


def resolve_run_alerts(context: Mapping[str, Any]) -> None:
    """End the alerts of earlier failures. This is Airflow's `on_success_callback` of a DAG."""
    run_alerts.resolve_run_alerts(context["dag"].dag_id, RUN_FAILED, RUN_LATE)


def resolve_gc_alert(context: Mapping[str, Any]) -> None:
    """End the alert of a failed garbage collection. This is Airflow's `on_success_callback` of the gc task."""
    run_alerts.resolve_run_alerts(context["dag"].dag_id, GC_FAILED)


def record_scheduled_run(context: Mapping[str, Any]) -> None:
    """Record that a DAG runs by schedule, so that a missing run raises an alert. It is an `on_execute_callback`."""
    if getattr(context["dag_run"], "run_type", "") == "scheduled":
        lifecycle.record_heartbeat(load(), context["dag"].dag_id, datetime.now(UTC))


def report_failed_gc(context: Mapping[str, Any]) -> None:
    """Report a failed garbage collection. This is Airflow's `on_failure_callback` of the gc task; the run goes on."""
    _report_failure(context, context.get("exception"), GC_FAILED, "Removing old data (gc) after the run")


def _report_failure(
    context: Mapping[str, Any], error: BaseException | None, rule: Rule = RUN_FAILED, subject: str = "The run"
) -> None:
    task, run = context.get("ti"), context.get("dag_run")
    dag, run_id = context["dag"].dag_id, str(context["run_id"])
    where = f" at {task.task_id}, try {task.try_number}" if task else f": {context.get('reason')}"
    cause = f": {describe_error(error)}" if error else "."
    raise_run_alert(
        rule,
        dag,
        run_id,
        getattr(run, "clear_number", 0) or 0,
        f"{subject} {run_id} of {dag} failed{where}{cause}",
        {
            "llmops.task": task.task_id if task else None,
            "llmops.attempt": task.try_number if task else None,
            "error.type": type(error).__name__ if error else None,
            "error.message": describe_error(error) if error else None,
        },
    )


async def report_late_run(hours: float, context: Mapping[str, Any]) -> None:
    """Report a late run. The triggerer calls it at the deadline."""
    run = context["dag_run"]
    if run["state"] in ("success", "failed"):  # Airflow also calls it for a run that failed before the deadline
        return
    message = f"The run {run['dag_run_id']} of {run['dag_id']} has not ended {hours:g} h after it was queued."
    await asyncio.to_thread(
        raise_run_alert,
        RUN_LATE,
        run["dag_id"],
        run["dag_run_id"],
        0,
        message,
        {"llmops.deadline": context["deadline"]},
    )


def make_deadline() -> DeadlineAlert | None:
    """Return an alert for runs that have not ended `schedule.late_hours` after they were queued; None if that is 0."""
    hours = load_settings().schedule.late_hours
    if not hours:
        return None
    callback = AsyncCallback(report_late_run, {"hours": hours})
    return DeadlineAlert(DeadlineReference.DAGRUN_QUEUED_AT, timedelta(hours=hours), callback)


def load_settings() -> Config:
    """Return the configuration for the parsing of a DAG file; if it cannot be read, the defaults.

    The first task of a run then reports the mistake.
    """
    try:
        return load()
    except ConfigError as error:
        log.warning("%s Until it is mended, the DAGs have the default schedule.", error)
        return Config()


#: Transient errors are retried after 10 s, 1 min and 5 min, other errors of ours are not. Foreign errors are retried.
DEFAULT_ARGS: dict[str, Any] = {
    "retries": 3,
    "retry_delay": timedelta(seconds=10),
    "retry_exponential_backoff": 6.0,
    "max_retry_delay": timedelta(minutes=5),
    "retry_policy": ExceptionRetryPolicy(
        [RetryRule(TransientError, RetryAction.RETRY), RetryRule(LlmopsError, RetryAction.FAIL)]
    ),
    "on_execute_callback": record_scheduled_run,
    "on_failure_callback": report_failed_task,
}
