"""The table of rules, for `rule_checker`, `lifecycle` (severities) and docs/alerts.md.

To add a rule: its name in `llmops.config.alerts.Rule`, a row here, a check that returns its breaches, a section in
docs/runbook.md, and its line in docs/alerts.md.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import NamedTuple

from llmops.config.alerts import Rule, Severity
from llmops.monitoring.alerts import checks, request_checks
from llmops.monitoring.alerts.breach import Breach
from llmops.monitoring.alerts.request_checks import CheckInputs

Check = Callable[[CheckInputs, datetime], list[Breach] | None]  #: returns None if this process cannot check it


class RuleSpec(NamedTuple):
    """The specification of a rule. Rules about the same data share a check."""

    severity: Severity
    raised_when: str  #: for docs/alerts.md, with the defaults of the thresholds
    check: Check | None = None  #: None: reported by Airflow's callbacks (`llmops.monitoring.alerts.run_alerts`)


RULES: dict[Rule, RuleSpec] = {
    "latency_p95": RuleSpec(
        "critical",
        "the 95th percentile of the answers of an operation is above "
        "`monitoring.latency_p95_ms` ({monitoring.latency_p95_ms:g}), or its own of `monitoring.latency_p95_ms_of`",
        request_checks.check_requests,
    ),
    "error_rate": RuleSpec(
        "critical",
        "the share of 5xx among an operation's requests is above `monitoring.error_rate` ({monitoring.error_rate:g})",
        request_checks.check_requests,
    ),
    "burn_rate_fast": RuleSpec(
        "critical",
        "its errors are `alerts.burn_fast` ({alerts.burn_fast:g}) times as many as that allows, in the last window and "
        "in twelve",
        request_checks.check_requests,
    ),
    "burn_rate_slow": RuleSpec(
        "warning",
        "its errors are `alerts.burn_slow` ({alerts.burn_slow:g}) times as many, in the last 6 windows and in 72",
        request_checks.check_requests,
    ),
    "queue_length": RuleSpec(
        "warning",
        "`alerts.queue_length` ({alerts.queue_length}) requests wait for the engines of a process at three looks in a "
        "row",
        request_checks.check_queue,
    ),
    "queue_time": RuleSpec(
        "warning",
        "the 95th percentile of the time that requests wait is above `alerts.queue_time_ms` ({alerts.queue_time_ms:g})",
        request_checks.check_requests,
    ),
    "guard_rejections": RuleSpec(
        "warning",
        "the guard has cut more than `alerts.guard_share` ({alerts.guard_share:g}) of an operation's answers",
        request_checks.check_requests,
    ),
    "drift": RuleSpec(
        "warning",
        "a feature differs from the reference in `alerts.drift_windows` ({alerts.drift_windows}) windows in a row",
        checks.check_drift,
    ),
    "decay": RuleSpec("warning", "the interval of a figure's slope is all on the wrong side of 0", checks.check_decay),
    "spool": RuleSpec(
        "warning",
        "a sink has left an event waiting for `alerts.spool_minutes` ({alerts.spool_minutes:g}), or "
        "`alerts.spool_events` ({alerts.spool_events:,}) of them",
        checks.check_spool,
    ),
    "disk": RuleSpec(
        "critical",
        "less than `alerts.disk_free` ({alerts.disk_free:g}) of the home's disk is free",
        checks.check_disk,
    ),
    "stage_failed": RuleSpec(
        "warning", "the last try of a stage, run without Airflow, has failed", checks.check_stage_failed
    ),
    "run_failed": RuleSpec("critical", "a run of a DAG has failed"),
    "run_late": RuleSpec(
        "warning", "a run of the pipeline has not ended within `schedule.late_hours` ({schedule.late_hours:g})"
    ),
    "gc_failed": RuleSpec("warning", "old data could not be removed after a run"),
    "dag_missing": RuleSpec(
        "warning",
        "a DAG that has run by its schedule before has not for `alerts.missing_hours`",
        checks.check_dag_missing,
    ),
    "key_expiring": RuleSpec(
        "warning",
        "an API key expires within `alerts.key_days` ({alerts.key_days:g}), and was made for longer than these",
        checks.check_key_expiring,
    ),
    "trial_error": RuleSpec(
        "warning", "a verdict on a canary or an A/B test that goes on was `error`", checks.check_trial_error
    ),
}
