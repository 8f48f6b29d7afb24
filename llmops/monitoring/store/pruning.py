"""Removing what the local event store keeps no longer, in small steps; SQLite uses the room again.

Events of which there is one per request go after `raw_days`, or when the store takes more room than `raw_mb`; their
roll-ups and all other events after `history_days`. What was stored within the last hour stays, however old it is:
until then a shipper may bring it again, which is seen by its being there.
"""

from __future__ import annotations

import sqlite3
from datetime import datetime, timedelta

from llmops.config import Monitoring
from llmops.monitoring.datasets import SERVING, TEXT
from llmops.monitoring.store.rollups import HOUR, MINUTE, MINUTE_DAYS
from llmops.monitoring.times import timestamp

PER_REQUEST = (SERVING, TEXT)
AGAIN = timedelta(hours=1)  #: within which an event may be delivered twice


def prune(db: sqlite3.Connection, config: Monitoring, now: datetime, most: int) -> int:
    """Remove up to `most` events of each kind that are due, and all roll-ups that are; in the caller's transaction."""
    guard = int((now - AGAIN).timestamp())
    raw, history = now - timedelta(days=config.raw_days), now - timedelta(days=config.history_days)
    gone = 0
    full = used_bytes(db) > config.raw_mb * 1_000_000
    for (dataset,) in db.execute(_DATASETS).fetchall():
        before = timestamp(max(raw, history) if dataset in PER_REQUEST else history)
        if full and dataset in PER_REQUEST:
            before = "~"
        gone += _oldest(db, dataset, before, guard, most)
    for step, days in ((MINUTE, MINUTE_DAYS), (HOUR, config.history_days)):
        start = int((now - timedelta(days=days)).timestamp()) // HOUR * HOUR
        db.execute("DELETE FROM rollups WHERE step = ? AND start < ?", (step, start))
    db.execute("DELETE FROM ratings WHERE asked < ?", (timestamp(history),))
    db.execute("DELETE FROM ratings WHERE asked IS NULL AND said < ?", (timestamp(history),))
    return gone


def used_bytes(db: sqlite3.Connection) -> int:
    """What is in the file; the rest of it is free for what comes."""
    pages, free, size = (
        db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
    )
    return int((pages - free) * size)


def complete_since(db: sqlite3.Connection, dataset: str) -> str:
    """From when on no event of a kind was removed."""
    row = db.execute("SELECT time FROM pruned WHERE dataset = ?", (dataset,)).fetchone()
    return str(row[0]) if row else ""


def _oldest(db: sqlite3.Connection, dataset: str, before: str, guard: int, most: int) -> int:
    rows = db.execute(
        "SELECT rowid, time FROM events WHERE dataset = ? AND time < ? AND stored < ? ORDER BY time LIMIT ?",
        (dataset, before, guard, most),
    ).fetchall()
    if rows:
        db.executemany("DELETE FROM events WHERE rowid = ?", [(row,) for row, _ in rows])
        db.execute(
            "INSERT INTO pruned VALUES (?, ?) ON CONFLICT (dataset) DO UPDATE SET time = max(time, excluded.time)",
            (dataset, rows[-1][1] + "~"),  # of the same moment more may go
        )
    return len(rows)


#: the kinds that are there, by jumping from one to the next in the index
_DATASETS = """
WITH RECURSIVE kinds (dataset) AS (
    SELECT min(dataset) FROM events
    UNION ALL SELECT (SELECT min(dataset) FROM events WHERE events.dataset > kinds.dataset) FROM kinds
    WHERE kinds.dataset IS NOT NULL)
SELECT dataset FROM kinds WHERE dataset IS NOT NULL
"""
