"""The table of rules, for `judge`, `ledger` (severities) and docs/alerts.md.

To add a rule: its name in `llmops.config.alerts.Rule`, a row here, a check that makes findings of this name, a section
in docs/runbook.md, and its line in docs/alerts.md.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import NamedTuple

from llmops.alerts import conditions, traffic
from llmops.alerts.finding import Finding
from llmops.alerts.traffic import Sources
from llmops.config.alerts import Rule, Severity

Check = Callable[[Sources, datetime], list[Finding] | None]  #: returns None if this process cannot judge it


class Row(NamedTuple):
    """A rule. Rules about the same data share a check."""

    severity: Severity
    raised_when: str  #: for docs/alerts.md, with the defaults of the thresholds
    check: Check | None = None  #: None: reported by Airflow's callbacks (`llmops.alerts.runs`)


RULES: dict[Rule, Row] = {
    "latency_p95": Row(
        "critical",
        "the 95th percentile of answers of `/generate` is above "
        "`monitoring.latency_p95_ms` ({monitoring.latency_p95_ms:g})",
        traffic.requests,
    ),
    "error_rate": Row(
        "critical", "the share of 5xx is above `monitoring.error_rate` ({monitoring.error_rate:g})", traffic.requests
    ),
    "burn_rate_fast": Row(
        "critical",
        "errors are `alerts.burn_fast` ({alerts.burn_fast:g}) times as many as that allows, in the last window and in "
        "twelve",
        traffic.requests,
    ),
    "burn_rate_slow": Row(
        "warning",
        "errors are `alerts.burn_slow` ({alerts.burn_slow:g}) times as many, in the last 6 windows and in 72",
        traffic.requests,
    ),
    "queue_length": Row(
        "warning",
        "`alerts.queue_length` ({alerts.queue_length}) requests wait for the engines of a process at three looks in a "
        "row",
        traffic.queue,
    ),
    "queue_time": Row(
        "warning",
        "the 95th percentile of the time that requests wait is above `alerts.queue_time_ms` ({alerts.queue_time_ms:g})",
        traffic.requests,
    ),
    "guard_rejections": Row(
        "warning",
        "the guard has cut more than `alerts.guard_share` ({alerts.guard_share:g}) of the answers",
        traffic.requests,
    ),
    "drift": Row(
        "warning",
        "a feature differs from the reference in `alerts.drift_windows` ({alerts.drift_windows}) windows in a row",
        conditions.drift,
    ),
    "decay": Row("warning", "the interval of a figure's slope is all on the wrong side of 0", conditions.decay),
    "spool": Row(
        "warning",
        "a sink has left an event waiting for `alerts.spool_minutes` ({alerts.spool_minutes:g}), or "
        "`alerts.spool_events` ({alerts.spool_events:,}) of them",
        conditions.spool,
    ),
    "disk": Row(
        "critical", "less than `alerts.disk_free` ({alerts.disk_free:g}) of the home's disk is free", conditions.disk
    ),
    "stage_failed": Row("warning", "the last try of a stage, run without Airflow, has failed", conditions.stage_failed),
    "run_failed": Row("critical", "a run of a DAG has failed"),
    "run_late": Row(
        "warning", "a run of the pipeline has not ended within `schedule.late_hours` ({schedule.late_hours:g})"
    ),
    "gc_failed": Row("warning", "old data could not be removed after a run"),
    "dag_missing": Row(
        "warning",
        "a DAG that has run by its schedule before has not for `alerts.missing_hours`",
        conditions.dag_missing,
    ),
    "key_expiring": Row(
        "warning",
        "an API key expires within `alerts.key_days` ({alerts.key_days:g}), and was made for longer than these",
        conditions.key_expiring,
    ),
    "trial_error": Row(
        "warning", "a verdict on a canary or an A/B test that goes on was `error`", conditions.trial_error
    ),
}
