"""The first revision: all tables of the database. There is no downgrade.

`llmops.state.tables` explains the tables and columns.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy import JSON, Column, Float, Integer, Text

revision = "1002"
down_revision = None

#: columns of `reviews` besides its id
_REVIEW = (
    "kind", "time", "key", "role", "version", "question", "context", "answer", "correction", "comment", "state",
    "joined", "decided", "by", "why", "edited",
)  # fmt: skip


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "aliases",
        Column("model", Text, primary_key=True),
        Column("alias", Text, primary_key=True),
        Column("version", Text, nullable=False),
        Column("share", Float),
        Column("started", Text),
    )
    op.create_table(
        "changes",
        Column("id", Integer, primary_key=True),
        Column("model", Text, nullable=False),
        Column("time", Text, nullable=False),
        Column("by", Text, nullable=False),
        Column("why", Text, nullable=False),
        Column("aliases", JSON, nullable=False),
        Column("numbers", JSON),
        Column("override", Text),
        sqlite_autoincrement=True,
    )
    op.create_index("changes_of_a_model", "changes", ["model", "id"])
    op.create_table(
        "decisions",
        Column("id", Integer, primary_key=True),
        Column("model", Text, nullable=False),
        Column("version", Text, nullable=False),
        Column("kind", Text, nullable=False),
        Column("time", Text, nullable=False),
        Column("outcome", Text, nullable=False),
        Column("by", Text, nullable=False),
        Column("why", Text, nullable=False),
        Column("numbers", JSON, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("decisions_of_a_version", "decisions", ["model", "version", "id"])
    op.create_table(
        "attempts",
        Column("id", Integer, primary_key=True),
        Column("model", Text, nullable=False),
        Column("test", Text, nullable=False),
        Column("number", Integer, nullable=False),
        Column("time", Text, nullable=False),
        Column("version", Text, nullable=False),
        Column("identity", Text, nullable=False),
        Column("items", Integer, nullable=False),
        Column("asked", JSON, nullable=False),
        Column("level", Float, nullable=False),
        Column("left", Float, nullable=False),
        Column("outcome", Text, nullable=False),
        sa.UniqueConstraint("model", "test", "number", name="one_attempt_a_number"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "trials",
        Column("model", Text, primary_key=True),
        Column("started", Text, primary_key=True),
        Column("kind", Text, nullable=False),
        Column("version", Text, nullable=False),
        Column("share", Float, nullable=False),
        Column("settings", JSON, nullable=False),
        Column("ended", Text),
        Column("outcome", Text),
    )
    op.create_table(
        "trial_counts",
        Column("model", Text, primary_key=True),
        Column("started", Text, primary_key=True),
        Column("replica", Text, primary_key=True),
        Column("counts", JSON, nullable=False),
        Column("updated", Text, nullable=False),
    )
    op.create_table(
        "keys",
        Column("prefix", Text, primary_key=True),
        Column("role", Text, nullable=False),
        Column("owner", Text, nullable=False),
        Column("sha256", Text, nullable=False),
        Column("created", Text, nullable=False),
        Column("expires", Text, nullable=False),
        Column("revoked", Text, nullable=False),
        Column("requests_per_minute", Integer),
        Column("tokens_per_minute", Integer),
        Column("old_sha256", Text, nullable=False),
        Column("old_until", Text, nullable=False),
    )
    op.create_table(
        "audit",
        Column("id", Integer, primary_key=True),
        Column("time", Text, nullable=False),
        Column("action", Text, nullable=False),
        Column("by", Text, nullable=False),
        Column("target", Text, nullable=False),
        Column("outcome", Text, nullable=False),
        Column("fields", JSON, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("audit_by_time", "audit", ["time"])
    op.create_table(
        "trial_ratings",
        Column("model", Text, primary_key=True),
        Column("started", Text, primary_key=True),
        Column("rating", Text, primary_key=True),
        Column("side", Text, nullable=False),
        Column("caller", Text, nullable=False),
        Column("up", Integer, nullable=False),
        Column("down", Integer, nullable=False),
        Column("corrected", Integer, nullable=False),
    )
    op.create_table(
        "split_runs",
        Column("scope", Text, primary_key=True),
        Column("number", Integer, primary_key=True),
        Column("interval", Text, nullable=False),
        Column("fingerprint", Text, nullable=False),
        sa.UniqueConstraint("scope", "fingerprint", name="one_run_a_fingerprint"),
    )
    op.create_table(
        "split_entries",
        Column("scope", Text, primary_key=True),
        Column("number", Integer, primary_key=True),
        Column("id", Text, primary_key=True),
        Column("wording", Text, nullable=False),
        Column("group", Text, nullable=False),
        Column("split", Text, nullable=False),
        Column("compared", Text, nullable=False),
        Column("example", JSON),
        Column("documents", Text, nullable=False),
    )
    op.create_table(
        "forgotten",
        Column("scope", Text, primary_key=True),
        Column("hash", Text, primary_key=True),
        Column("mark", Integer),
    )
    op.create_table(
        "erasures",
        Column("number", Integer, primary_key=True),
        Column("subject", Text, nullable=False),
        Column("begun", Text, nullable=False),
        Column("ended", Text, nullable=False),
        Column("plan", JSON),
        Column("receipt", JSON),
        sqlite_autoincrement=True,
    )
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
    op.create_table(
        "file_hashes",
        Column("file", Text, primary_key=True),
        Column("state", Text, nullable=False),
        Column("sha256", Text, nullable=False),
    )
    op.create_table("heartbeats", Column("name", Text, primary_key=True), Column("time", Text, nullable=False))
    op.create_table(
        "reviews", Column("id", Text, primary_key=True), *(Column(name, Text, nullable=False) for name in _REVIEW)
    )
    op.create_index("reviews_by_state", "reviews", ["state", "decided"])
