"""What users have said of answers, and what was decided on it."""

from __future__ import annotations

from alembic import op
from sqlalchemy import Column, Text

revision = "0006"
down_revision = "0005"

_TEXTS = (
    "kind", "time", "key", "role", "version", "question", "context", "answer", "correction", "comment", "state",
    "joined", "decided", "by", "why", "edited",
)  # fmt: skip


def upgrade() -> None:
    op.create_table(
        "reviews", Column("id", Text, primary_key=True), *(Column(name, Text, nullable=False) for name in _TEXTS)
    )
    op.create_index("reviews_by_state", "reviews", ["state", "decided"])
