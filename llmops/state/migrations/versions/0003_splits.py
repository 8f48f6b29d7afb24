"""The split ledger: what each run of annotate was the first to test, or to train with."""

from __future__ import annotations

from alembic import op
from sqlalchemy import JSON, Column, Integer, Text, UniqueConstraint

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_table(
        "split_runs",
        Column("scope", Text, primary_key=True),
        Column("number", Integer, primary_key=True),
        Column("interval", Text, nullable=False),
        Column("fingerprint", Text, nullable=False),
        UniqueConstraint("scope", "fingerprint", name="one_run_a_fingerprint"),
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
        Column("example", JSON(none_as_null=True)),
    )
