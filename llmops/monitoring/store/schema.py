"""The tables of the local event store, and how a store of an earlier release gets them."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llmops.monitoring.database import connect
from llmops.monitoring.datasets import FEEDBACK, SERVING
from llmops.monitoring.store import ratings, rollups

VERSION = 1  #: SQLite's `user_version`; 0: of a release before 0.2
TABLES = """
CREATE TABLE rollups (
    step INTEGER NOT NULL, start INTEGER NOT NULL, version TEXT NOT NULL, status INTEGER NOT NULL, error TEXT NOT NULL,
    requests INTEGER NOT NULL, input_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL, duration INTEGER NOT NULL,
    latency BLOB NOT NULL, first_token BLOB NOT NULL, queue BLOB NOT NULL,
    PRIMARY KEY (step, start, version, status, error));
CREATE TABLE ratings (
    request TEXT NOT NULL, key TEXT NOT NULL, rating TEXT NOT NULL, said TEXT NOT NULL, asked TEXT, version TEXT,
    PRIMARY KEY (request, key)) WITHOUT ROWID;
CREATE INDEX ratings_by_time ON ratings (asked, version, rating);
CREATE TABLE pruned (dataset TEXT PRIMARY KEY, time TEXT NOT NULL);
CREATE INDEX by_request ON events (request, dataset) WHERE request IS NOT NULL;
"""
_REQUEST = """request TEXT GENERATED ALWAYS AS (json_extract(document, '$."http.request.id"')) VIRTUAL"""
SCHEMA = f"""
CREATE TABLE events (
    id TEXT PRIMARY KEY, time TEXT NOT NULL, dataset TEXT NOT NULL, document TEXT NOT NULL,
    stored INTEGER NOT NULL DEFAULT 0, {_REQUEST});
CREATE INDEX by_dataset ON events (dataset, time);
{TABLES}
PRAGMA user_version = {VERSION};
"""


def opened(path: Path) -> sqlite3.Connection:
    """The store at `path`, made if it is not there, and taken over if an earlier release has made it.

    Raises:
        sqlite3.Error: if it is of a later release, too.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    db = connect(path, SCHEMA)
    try:
        version = _version(db)
        if version < VERSION:
            _take_over(db)
        elif version > VERSION:
            raise sqlite3.DatabaseError("a later release has made it")
    except BaseException:
        db.close()
        raise
    return db


def _version(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def _take_over(db: sqlite3.Connection) -> None:
    """Add what is missing and count what is there, in one transaction: who is killed in it has changed nothing."""
    db.execute("BEGIN IMMEDIATE")
    with db:
        if _version(db) == VERSION:  # another process was faster
            return
        db.execute("ALTER TABLE events ADD COLUMN stored INTEGER NOT NULL DEFAULT 0")
        db.execute(f"ALTER TABLE events ADD COLUMN {_REQUEST}")
        db.execute("DROP INDEX IF EXISTS by_time")
        for statement in TABLES.split(";\n"):
            db.execute(statement)
        now = time.time()
        for events in _several(db, SERVING):
            rollups.add(db, events, now)
        for events in _several(db, FEEDBACK):
            ratings.add_ratings(db, events)
        db.execute(f"PRAGMA user_version = {VERSION}")


def _several(db: sqlite3.Connection, dataset: str) -> Iterator[list[dict[str, Any]]]:
    rows = db.execute("SELECT document FROM events WHERE dataset = ? ORDER BY time", (dataset,))
    while documents := rows.fetchmany(5000):
        yield [json.loads(document) for (document,) in documents]
