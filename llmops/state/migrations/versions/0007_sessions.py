"""Browsers' sessions that were signed out before their time."""

from __future__ import annotations

from alembic import op
from sqlalchemy import Column, Text

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.create_table("ended_sessions", Column("session", Text, primary_key=True), Column("until", Text, nullable=False))
