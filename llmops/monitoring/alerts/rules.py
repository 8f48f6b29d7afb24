"""The table of rules, for `judge`, `lifecycle` (severities) and docs/alerts.md.

To add a rule: its name in `llmops.config.alerts.Rule`, a row here, a check that returns its breaches, a section in
docs/runbook.md, and its line in docs/alerts.md.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import NamedTuple

from llmops.config.alerts import Rule, Severity
from llmops.monitoring.alerts import conditions, traffic
from llmops.monitoring.alerts.breach import Breach
from llmops.monitoring.alerts.traffic import Sources

Check = Callable[[Sources, datetime], list[Breach] | None]  #: returns None if this process cannot judge it


class Spec(NamedTuple):
    """The specification of a rule. Rules about the same data share a check."""

    severity: Severity
    raised_when: str  #: for docs/alerts.md, with the defaults of the thresholds
    check: Check | None = None  #: None: reported by Airflow's callbacks (`llmops.monitoring.alerts.runs`)


RULES: dict[Rule, Spec] = {
    "latency_p95": Spec(
        "critical",
        "the 95th percentile of answers of `/generate` is above "
        "`monitoring.latency_p95_ms` ({monitoring.latency_p95_ms:g})",
        traffic.check_requests,
    ),
    "error_rate": Spec(
        "critical",
        "the share of 5xx is above `monitoring.error_rate` ({monitoring.error_rate:g})",
        traffic.check_requests,
    ),
    "burn_rate_fast": Spec(
        "critical",
        "errors are `alerts.burn_fast` ({alerts.burn_fast:g}) times as many as that allows, in the last window and in "
        "twelve",
        traffic.check_requests,
    ),
    "burn_rate_slow": Spec(
        "warning",
        "errors are `alerts.burn_slow` ({alerts.burn_slow:g}) times as many, in the last 6 windows and in 72",
        traffic.check_requests,
    ),
    "queue_length": Spec(
        "warning",
        "`alerts.queue_length` ({alerts.queue_length}) requests wait for the engines of a process at three looks in a "
        "row",
        traffic.check_queue,
    ),
    "queue_time": Spec(
        "warning",
        "the 95th percentile of the time that requests wait is above `alerts.queue_time_ms` ({alerts.queue_time_ms:g})",
        traffic.check_requests,
    ),
    "guard_rejections": Spec(
        "warning",
        "the guard has cut more than `alerts.guard_share` ({alerts.guard_share:g}) of the answers",
        traffic.check_requests,
    ),
    "drift": Spec(
        "warning",
        "a feature differs from the reference in `alerts.drift_windows` ({alerts.drift_windows}) windows in a row",
        conditions.check_drift,
    ),
    "decay": Spec("warning", "the interval of a figure's slope is all on the wrong side of 0", conditions.check_decay),
    "spool": Spec(
        "warning",
        "a sink has left an event waiting for `alerts.spool_minutes` ({alerts.spool_minutes:g}), or "
        "`alerts.spool_events` ({alerts.spool_events:,}) of them",
        conditions.check_spool,
    ),
    "disk": Spec(
        "critical",
        "less than `alerts.disk_free` ({alerts.disk_free:g}) of the home's disk is free",
        conditions.check_disk,
    ),
    "stage_failed": Spec(
        "warning", "the last try of a stage, run without Airflow, has failed", conditions.check_stage_failed
    ),
    "run_failed": Spec("critical", "a run of a DAG has failed"),
    "run_late": Spec(
        "warning", "a run of the pipeline has not ended within `schedule.late_hours` ({schedule.late_hours:g})"
    ),
    "gc_failed": Spec("warning", "old data could not be removed after a run"),
    "dag_missing": Spec(
        "warning",
        "a DAG that has run by its schedule before has not for `alerts.missing_hours`",
        conditions.check_dag_missing,
    ),
    "key_expiring": Spec(
        "warning",
        "an API key expires within `alerts.key_days` ({alerts.key_days:g}), and was made for longer than these",
        conditions.check_key_expiring,
    ),
    "trial_error": Spec(
        "warning", "a verdict on a canary or an A/B test that goes on was `error`", conditions.check_trial_error
    ),
}
