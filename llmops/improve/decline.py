"""Alerts that say that the model is not what it was: its requests drift, or its answers decay."""

from __future__ import annotations

from datetime import datetime

from llmops.alerts.ledger import told_between
from llmops.config import Config

RULES = ("drift", "decay")


def declines(config: Config, since: datetime, until: datetime) -> list[str]:
    """The messages of the alerts about drift or decay that were raised in a span of time, and not in silence.

    They are read where they are raised: the event of one may reach whoever keeps events long after the span.
    """
    return [str(row["finding"]["message"]) for row in told_between(config, RULES, since, until)]
