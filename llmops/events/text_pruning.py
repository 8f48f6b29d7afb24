"""Removal of stored request texts (`monitoring.keep_text`) after their retention time.

The event and its features stay. In Elasticsearch the lifecycle of the data stream removes the whole event.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

from llmops.events.database import BUSY_TIMEOUT_S
from llmops.events.datasets import TEXT
from llmops.events.events import format_timestamp

TEXT_FIELDS = ("llmops.prompt.text", "llmops.context.text", "llmops.answer.text")

#: file → its tables with events
_EVENT_TABLES = {"store.db": ("events",), "spool.db": ("events", "rejected")}


def prune_texts(folder: Path, days: float, now: datetime | None = None) -> int:
    """Remove the texts from events older than `days`, in the local store and the spool. Return the number of events."""
    before = format_timestamp((now or datetime.now(UTC)) - timedelta(days=days))
    removed = 0
    for name, tables in _EVENT_TABLES.items():
        if (folder / name).exists():
            with closing(sqlite3.connect(folder / name, timeout=BUSY_TIMEOUT_S)) as db:
                counts = [_remove_texts(db, table, before) for table in tables]
                removed += sum(counts)
                if any(counts):
                    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # the log still contains the texts
    return removed


def _remove_texts(db: sqlite3.Connection, table: str, before: str) -> int:
    paths = [f'$."{field}"' for field in TEXT_FIELDS]
    has_text = " OR ".join("json_extract(document, ?) IS NOT NULL" for _ in paths)
    where = "json_extract(document, '$.\"event.dataset\"') = ? AND json_extract(document, '$.\"@timestamp\"') < ?"
    columns = {row[1] for row in db.execute(f"PRAGMA table_info({table})")}
    values: list[str] = [TEXT, before]
    if {"dataset", "time"} <= columns:  # the store has an index on them
        where, values = f"dataset = ? AND time < ? AND {where}", [TEXT, before, *values]
    db.execute("PRAGMA secure_delete = ON")
    with db:
        placeholders = ", ".join("?" for _ in paths)
        return db.execute(
            f"UPDATE {table} SET document = json_remove(document, {placeholders}) WHERE {where} AND ({has_text})",
            (*paths, *values, *paths),
        ).rowcount
