"""The receivers that are always there: the log and the events."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmops.alerts.finding import title
from llmops.monitoring.datasets import ALERT
from llmops.monitoring.events import emit

log = logging.getLogger(__name__)


class Log:
    """The log of the process."""

    name, timeout_s = "log", 1.0

    def send(self, document: Mapping[str, Any]) -> None:
        """See `Receiver`."""
        log.warning("%s %s Runbook: %s", title(document), document["message"], document["runbook"])


class Events:
    """Events of the dataset `llmops.alert`, which the dashboard shows.

    Args:
        folder: the events folder.
    """

    name, timeout_s = "event", 1.0

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def send(self, document: Mapping[str, Any]) -> None:
        """See `Receiver`; told again it makes an event with the same id, which sinks keep once."""
        fields = {
            "event.id": str(uuid.uuid5(uuid.NAMESPACE_URL, document["id"])),
            "event.kind": "alert",
            "event.action": document["state"],
            "event.reason": document.get("reason"),
            "user.name": document.get("by"),
            "rule.name": document["rule"],
            "message": document["message"],
            **{
                f"llmops.alert.{field}": document[name] or None
                for field, name in (
                    ("id", "alert"), ("state", "state"), ("severity", "severity"), ("subject", "subject"),
                    ("since", "since"), ("until", "until"), ("raised", "raised"), ("resolved", "resolved"),
                    ("place", "place"), ("runbook", "runbook"), ("link", "link"),
                )
            },
            **document["details"],
            "llmops.alert.value": document["value"],
            "llmops.alert.bound": document["bound"],
        }  # fmt: skip
        emit(self._folder, ALERT, {name: value for name, value in fields.items() if value is not None})
