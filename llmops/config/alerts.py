"""The section of alerts: their thresholds and receivers."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from llmops.config.section import Section, check_password

Rule = Literal[
    "latency_p95", "error_rate", "burn_rate_fast", "burn_rate_slow", "queue_length", "queue_time", "drift", "decay",
    "guard_rejections", "spool", "disk", "stage_failed", "dag_missing", "key_expiring", "run_failed", "run_late",
    "gc_failed", "trial_error",
]  # fmt: skip
Severity = Literal["warning", "critical"]

#: scheduled DAG → hours after which it should have run again
DEFAULT_MISSING_HOURS: dict[str, float] = {"llmops_pipeline": 26, "llm_monitoring": 2, "llm_governance_review": 26}


class Receiver(Section):
    """A service that receives alerts (mail, chat, pager, webhook), by its apprise URL."""

    name: str = Field(pattern=r"^[\w.-]+$", description="Its name in deliveries and errors.")
    url: str = Field(description="An apprise URL, with `${NAME}` for secrets.")
    severities: tuple[Severity, ...] = Field(("warning", "critical"), description="Severities that it receives.")

    @model_validator(mode="after")
    def _check_url(self) -> Receiver:
        if not re.match(r"\$\{\w+\}|\w+://.", self.url):
            raise ValueError(f"the receiver {self.name!r} needs a URL of apprise such as mailtos:// or slack://")
        check_password(self.url)
        return self


class Alerts(Section):
    """Thresholds and receivers of alerts. Objectives of requests are in `monitoring`."""

    every_s: float = Field(60, ge=0, description="How often the serving app judges the rules, in seconds; 0: never.")
    window_minutes: float = Field(
        5, gt=0, description="Length of the judged window; burn rates are judged over 1, 6, 12 and 72 such windows."
    )
    resolve_minutes: float = Field(
        5, ge=0, description="An alert is resolved after its condition has been absent for so many minutes."
    )
    off: tuple[Rule, ...] = Field((), description="Rules that are switched off.")
    min_bad: int = Field(5, ge=1, description="Fewer slow, failed or rejected requests than this raise no alert.")
    burn_fast: float = Field(
        14.4, gt=1, description="Factor by which errors exceed `monitoring.error_rate`, over 1 and over 12 windows."
    )
    burn_slow: float = Field(6, gt=1, description="The same over 6 and over 72 windows.")
    queue_length: int = Field(32, ge=1, description="Requests waiting for an engine, in three checks in a row.")
    queue_time_ms: float = Field(500, gt=0, description="95th percentile of the time that requests wait.")
    drift_windows: int = Field(2, ge=1, description="Windows in a row that must differ from the reference.")
    guard_share: float = Field(
        0.05, gt=0, le=1, description="Share of answers that the guard may cut without an alert."
    )
    spool_minutes: float = Field(15, gt=0, description="Age of the oldest event that a sink has not taken.")
    spool_events: int = Field(100_000, ge=1, description="Number of events that a sink has not taken.")
    disk_free: float = Field(0.05, ge=0, lt=1, description="Share of the home's disk that has to be free.")
    key_days: float = Field(7, ge=0, description="Days before its expiry at which a key raises an alert.")
    missing_hours: dict[str, Annotated[float, Field(gt=0)]] = Field(
        default_factory=lambda: DEFAULT_MISSING_HOURS,
        description="Scheduled DAG: hours after which it should have run again.",
    )
    receivers: tuple[Receiver, ...] = Field(
        (), description="Services that receive alerts, besides the log and the events: docs/alerts.md."
    )
    dashboard: str = Field("", description="Address of the dashboard for links; default: that of the serving app.")
    runbook: str = Field("docs/runbook.md", description="Path or address of the runbook.")

    @field_validator("receivers")
    @classmethod
    def _check_names(cls, value: tuple[Receiver, ...]) -> tuple[Receiver, ...]:
        names = [receiver.name for receiver in value]
        if twice := sorted({name for name in names if names.count(name) > 1 or name in ("log", "event")}):
            raise ValueError(f"each receiver needs a name of its own, none of them log or event: {twice[0]!r}")
        return value
