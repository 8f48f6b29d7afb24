"""Who did what to which, in the database: a row for every change, in the transaction of the change itself."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from llmops.state.tables import audit


def now() -> str:
    """The time as the tables keep it: ISO, UTC, with seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def note(
    connection: sa.Connection,
    action: str,
    *,
    by: str,
    target: str,
    fields: Mapping[str, Any],
    outcome: str = "success",
) -> None:
    """Write down a change, within its transaction.

    Args:
        connection: of the transaction, from `Database.change`.
        action: what was done, as in the event's `event.action`.
        by: who did it.
        target: a version, or the prefix of a key.
        fields: what else is known of it; no secret.
        outcome: `success` or `failure`.
    """
    row = {"time": now(), "action": action, "by": by, "target": target, "outcome": outcome, "fields": dict(fields)}
    connection.execute(sa.insert(audit).values(row))
