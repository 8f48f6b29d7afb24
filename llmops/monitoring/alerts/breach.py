"""A breach of a rule, and the message that receivers get about it."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from llmops.config import Config
from llmops.config.alerts import Rule
from llmops.frame.artifacts import hold_lock


@dataclass(frozen=True, slots=True)
class Breach:
    """A rule that is broken now, for one subject."""

    rule: Rule
    message: str  #: for people, with the numbers
    subject: str = ""  #: a version, a sink, a DAG, a key
    value: float | None = None  #: measured value
    bound: float | None = None  #: promised value
    since: str = ""  #: window that was checked
    until: str = ""
    machine: str = ""  #: the only machine that can check it
    details: Mapping[str, Any] = field(default_factory=dict)  #: further fields of the event

    def as_json(self) -> dict[str, Any]:
        """Return the content of the database column `finding`."""
        return {name: asdict(self)[name] for name in ("message", "value", "bound", "since", "until", "details")}


def build_message(config: Config, row: Mapping[str, Any], state: str) -> dict[str, Any]:
    """Return the message to receivers."""
    message = row["finding"]["message"]
    if state == "resolved":
        took = datetime.fromisoformat(row["resolved"]) - datetime.fromisoformat(row["raised"])
        message = f"Over after {took.total_seconds() / 60:,.0f} min. It was: {message}"
    return {
        "id": f"{row['id']}.{state}",  # the same at every try, so that receivers can recognise a repetition
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
        "link": get_dashboard_url(config),
        "service": "llmops",
    }


def get_dashboard_url(config: Config) -> str:
    """Return the address of the dashboard."""
    if config.alerts.dashboard:
        return config.alerts.dashboard
    host = "127.0.0.1" if config.serving.host in ("0.0.0.0", "::") else config.serving.host
    return f"http://{host}:{config.serving.port}/dashboard"


def format_title(document: Mapping[str, Any]) -> str:
    """Return one line with state, severity, rule and subject."""
    about = f" ({document['subject']})" if document["subject"] else ""
    return " ".join(f"[{document['state']}] {document['severity']}: {document['rule']}{about}".split())


def format_text(document: Mapping[str, Any]) -> str:
    """Return the message with its numbers, the runbook and the dashboard. The last line is the same at every try."""
    names = ("value", "bound", "since", "until", "raised", "resolved")
    rows = [f"{name}: {document[name]}" for name in names if document[name] not in (None, "")]
    ends = [f"What to do: {document['runbook']}", f"Dashboard: {document['link']}", f"id: {document['id']}"]
    return "\n".join([document["message"], "", *rows, "", *ends])


def get_machine_id(config: Config) -> str:
    """Return the name of this home. Several processes may share it; other machines cannot see it.

    Breaches of the rules about its spool and its disk carry this name.
    """
    file = config.home / "place"
    if not file.is_file():
        with hold_lock(file):
            if not file.is_file():
                file.write_text(f"{socket.gethostname()}-{secrets.token_hex(3)}", encoding="utf-8")
    return file.read_text(encoding="utf-8")
