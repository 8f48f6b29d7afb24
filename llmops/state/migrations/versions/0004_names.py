"""By what an erasure finds an entry of the split ledger once what it was made of is gone."""

from __future__ import annotations

from alembic import op
from sqlalchemy import Column, LargeBinary

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.add_column("split_runs", Column("salt", LargeBinary))
    op.add_column("split_entries", Column("names", LargeBinary))
