"""Which index of documents is served with a model."""

from __future__ import annotations

from alembic import op
from sqlalchemy import Column, Text

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.create_table(
        "served_indexes",
        Column("model", Text, primary_key=True),
        Column("fingerprint", Text, nullable=False),
        Column("interval", Text, nullable=False),
        Column("since", Text, nullable=False),
    )
