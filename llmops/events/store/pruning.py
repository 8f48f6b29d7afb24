"""Removal of expired data from the local event store, in small steps. SQLite reuses the space.

Events that exist per request expire after `raw_days`, or when the store exceeds `raw_mb`. Their roll-ups and all other
events expire after `history_days`. An event stored within the last hour stays, however old it is: a shipper may deliver
it a second time, and only the stored event shows that.
"""

from __future__ import annotations

import sqlite3
from datetime import datetime, timedelta

from llmops.config import Monitoring
from llmops.events.datasets import SERVING, TEXT
from llmops.events.store.rollups import HOUR, MINUTE, MINUTE_DAYS
from llmops.events.times import format_timestamp

REQUEST_DATASETS = (SERVING, TEXT)
REDELIVERY_PERIOD = timedelta(hours=1)  #: period in which an event may be delivered a second time


def prune_events(db: sqlite3.Connection, config: Monitoring, now: datetime, limit: int) -> int:
    """Remove up to `limit` expired events of each kind and all expired roll-ups, in the caller's transaction."""
    stored_before = int((now - REDELIVERY_PERIOD).timestamp())
    raw, history = now - timedelta(days=config.raw_days), now - timedelta(days=config.history_days)
    removed = 0
    full = count_used_bytes(db) > config.raw_mb * 1_000_000
    for (dataset,) in db.execute(_LIST_DATASETS).fetchall():
        before = format_timestamp(max(raw, history) if dataset in REQUEST_DATASETS else history)
        if full and dataset in REQUEST_DATASETS:
            before = "~"
        removed += _delete_oldest(db, dataset, before, stored_before, limit)
    for step, days in ((MINUTE, MINUTE_DAYS), (HOUR, config.history_days)):
        start = int((now - timedelta(days=days)).timestamp()) // HOUR * HOUR
        db.execute("DELETE FROM rollups WHERE step = ? AND start < ?", (step, start))
    db.execute("DELETE FROM ratings WHERE asked < ?", (format_timestamp(history),))
    db.execute("DELETE FROM ratings WHERE asked IS NULL AND said < ?", (format_timestamp(history),))
    return removed


def count_used_bytes(db: sqlite3.Connection) -> int:
    """Return the bytes in use in the file. The rest is free for new data."""
    pages, free, size = (
        db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
    )
    return int((pages - free) * size)


def find_complete_since(db: sqlite3.Connection, dataset: str) -> str:
    """Return the time from which no event of a kind was removed."""
    row = db.execute("SELECT time FROM pruned WHERE dataset = ?", (dataset,)).fetchone()
    return str(row[0]) if row else ""


def _delete_oldest(db: sqlite3.Connection, dataset: str, before: str, stored_before: int, limit: int) -> int:
    rows = db.execute(
        "SELECT rowid, time FROM events WHERE dataset = ? AND time < ? AND stored < ? ORDER BY time LIMIT ?",
        (dataset, before, stored_before, limit),
    ).fetchall()
    if rows:
        db.executemany("DELETE FROM events WHERE rowid = ?", [(row,) for row, _ in rows])
        db.execute(
            "INSERT INTO pruned VALUES (?, ?) ON CONFLICT (dataset) DO UPDATE SET time = max(time, excluded.time)",
            (dataset, rows[-1][1] + "~"),  # other events of that time may be removed later
        )
    return len(rows)


#: all kinds of stored events; it jumps from one to the next in the index
_LIST_DATASETS = """
WITH RECURSIVE kinds (dataset) AS (
    SELECT min(dataset) FROM events
    UNION ALL SELECT (SELECT min(dataset) FROM events WHERE events.dataset > kinds.dataset) FROM kinds
    WHERE kinds.dataset IS NOT NULL)
SELECT dataset FROM kinds WHERE dataset IS NOT NULL
"""
