"""What is said of answers in a trial, once for all replicas."""

from __future__ import annotations

from alembic import op
from sqlalchemy import Column, Integer, Text

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.execute("DELETE FROM trial_counts")  # in a form that is read no more: a trial that goes on is counted anew
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
