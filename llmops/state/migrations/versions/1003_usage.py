"""Budgets of keys, and what each key has used.

`llmops.state.tables` explains the tables and columns.
"""

from __future__ import annotations

from alembic import op
from sqlalchemy import BigInteger, Column, Text

revision = "1003"
down_revision = "1002"


def upgrade() -> None:
    """Create the table of usage, and add the budget to keys."""
    op.add_column("keys", Column("tokens_per_month", BigInteger))
    op.create_table(
        "usage",
        Column("key", Text, primary_key=True),
        Column("day", Text, primary_key=True),
        Column("model", Text, primary_key=True),
        Column("requests", BigInteger, nullable=False),
        Column("input_tokens", BigInteger, nullable=False),
        Column("output_tokens", BigInteger, nullable=False),
    )
