"""Alerts that say that the model is not what it was: its requests drift, or its answers decay."""

from __future__ import annotations

from datetime import datetime

from llmops.config import Config
from llmops.monitoring.datasets import ALERT
from llmops.monitoring.events import timestamp
from llmops.monitoring.reader import reader_of

RULES = ("drift", "decay")  #: the rules' names begin so


def declines(config: Config, since: datetime, until: datetime) -> list[str]:
    """The messages of the alerts about drift or decay that were raised in a span of time."""
    return [
        str(event.get("message") or event["rule.name"])
        for event in reader_of(config).find(ALERT, timestamp(since), timestamp(until))
        if str(event.get("rule.name", "")).startswith(RULES) and event.get("llmops.alert.state", "raised") == "raised"
    ]
