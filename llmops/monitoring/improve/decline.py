"""Alerts about a declining model: drift of its requests, or decay of its answers."""

from __future__ import annotations

from datetime import datetime

from llmops.config import Config
from llmops.monitoring.alerts.lifecycle import read_notified_alerts

DECLINE_RULES = ("drift", "decay")


def read_declines(config: Config, since: datetime, until: datetime) -> list[str]:
    """Return the messages of alerts about drift or decay that were raised in a period and not silenced.

    They are read from the database of alerts, because their events may arrive in the event store much later.
    """
    return [str(row["finding"]["message"]) for row in read_notified_alerts(config, DECLINE_RULES, since, until)]
