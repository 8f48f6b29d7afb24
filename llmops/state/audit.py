"""The audit table: a row for every change, in the transaction of the change."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from llmops.state.tables import audit


def now() -> str:
    """Return the current time as in the tables: ISO, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def record(
    connection: sa.Connection, action: str, *, by: str, target: str, fields: Mapping[str, Any], outcome: str = "success"
) -> None:
    """Record a change, within its transaction.

    `target` is a version or the prefix of a key. `fields` must hold no secret. `outcome` is `success` or `failure`.
    """
    row = {"time": now(), "action": action, "by": by, "target": target, "outcome": outcome, "fields": dict(fields)}
    connection.execute(sa.insert(audit).values(row))
