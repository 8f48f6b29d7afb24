"""What a rule finds, and what people are told of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from llmops.config import Config
from llmops.config.alerts import Rule, Severity

#: rule → how bad it is. `docs/runbook.md` has a heading for each, which its alerts link to.
SEVERITIES: dict[Rule, Severity] = {
    "latency_p95": "critical",
    "error_rate": "critical",
    "burn_rate_fast": "critical",
    "burn_rate_slow": "warning",
    "queue_length": "warning",
    "queue_time": "warning",
    "guard_rejections": "warning",
    "drift": "warning",
    "decay": "warning",
    "spool": "warning",
    "disk": "critical",
    "stage_failed": "warning",
    "dag_missing": "warning",
    "key_expiring": "warning",
    "trial_error": "warning",
    "run_failed": "critical",
    "run_late": "warning",
    "gc_failed": "warning",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """A rule is broken now."""

    rule: Rule
    message: str  #: for a person, with the numbers
    subject: str = ""  #: what it is about: a version, a sink, a DAG, a key
    value: float | None = None  #: what was measured
    bound: float | None = None  #: what was promised
    since: str = ""  #: the window that was judged
    until: str = ""
    place: str = ""  #: the machine, if it alone can judge this
    details: Mapping[str, Any] = field(default_factory=dict)  #: more fields of the event

    @property
    def severity(self) -> Severity:
        """How bad it is."""
        return SEVERITIES[self.rule]

    def kept(self) -> dict[str, Any]:
        """What the database keeps of it besides its columns."""
        return {name: asdict(self)[name] for name in ("message", "value", "bound", "since", "until", "details")}


def document(config: Config, row: Mapping[str, Any], state: str) -> dict[str, Any]:
    """What receivers are told.

    Args:
        config: where the dashboard and the runbook are.
        row: of the table `alerts`.
        state: `raised`, `resolved`, `silenced` or `test`.
    """
    message = row["finding"]["message"]
    if state == "resolved":
        took = datetime.fromisoformat(row["resolved"]) - datetime.fromisoformat(row["raised"])
        message = f"Over after {took.total_seconds() / 60:,.0f} min. It was: {message}"
    return {
        "id": f"{row['id']}.{state}",  # the same at every try, so that whoever gets it twice can tell
        "alert": row["id"],
        "state": state,
        "rule": row["rule"],
        "subject": row["subject"],
        "severity": row["severity"],
        **row["finding"],
        "message": message,
        "raised": row["raised"],
        "resolved": row["resolved"] or None,
        "place": row["place"],
        "runbook": f"{config.alerts.runbook}#{row['rule']}",
        "link": link(config),
        "service": "llmops",
    }


def link(config: Config) -> str:
    """Where the dashboard is."""
    if config.alerts.dashboard:
        return config.alerts.dashboard
    host = "127.0.0.1" if config.serving.host in ("0.0.0.0", "::") else config.serving.host
    return f"http://{host}:{config.serving.port}/dashboard"


def title(document: Mapping[str, Any]) -> str:
    """One line: how it stands, how bad it is, what it is about."""
    about = f" ({document['subject']})" if document["subject"] else ""
    return f"[{document['state']}] {document['severity']}: {document['rule']}{about}"
