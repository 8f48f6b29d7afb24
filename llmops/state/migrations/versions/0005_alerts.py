"""Alerts: what was raised, who has to be told, what is silenced, and when what is scheduled ran last."""

from __future__ import annotations

from alembic import op
from sqlalchemy import JSON, Column, Integer, Text

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.create_table(
        "alerts",
        Column("id", Text, primary_key=True),
        Column("rule", Text, nullable=False),
        Column("subject", Text, nullable=False),
        Column("place", Text, nullable=False),
        Column("severity", Text, nullable=False),
        Column("finding", JSON, nullable=False),
        Column("raised", Text, nullable=False),
        Column("held", Text, nullable=False),
        Column("told", Text, nullable=False),
        Column("resolved", Text, nullable=False),
    )
    op.create_index("alerts_that_are_open", "alerts", ["resolved", "rule", "subject"])
    op.create_table(
        "alert_deliveries",
        Column("id", Text, primary_key=True),
        Column("alert", Text, nullable=False),
        Column("receiver", Text, nullable=False),
        Column("document", JSON, nullable=False),
        Column("created", Text, nullable=False),
        Column("due", Text, nullable=False),
        Column("tries", Integer, nullable=False),
        Column("error", Text, nullable=False),
        Column("ended", Text, nullable=False),
        Column("outcome", Text, nullable=False),
    )
    op.create_index("alert_deliveries_that_wait", "alert_deliveries", ["ended", "due"])
    op.create_table(
        "alert_silences",
        Column("id", Integer, primary_key=True),
        Column("rule", Text, nullable=False),
        Column("subject", Text, nullable=False),
        Column("reason", Text, nullable=False),
        Column("by", Text, nullable=False),
        Column("created", Text, nullable=False),
        Column("until", Text, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_table("heartbeats", Column("name", Text, primary_key=True), Column("time", Text, nullable=False))
