"""The tables of the local event store."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from llmops.events.database import connect

SCHEMA_VERSION = 1  #: SQLite's `user_version`
_REQUEST_COLUMN = """request TEXT GENERATED ALWAYS AS (json_extract(document, '$."http.request.id"')) VIRTUAL"""
SCHEMA = f"""
CREATE TABLE events (
    id TEXT PRIMARY KEY, time TEXT NOT NULL, dataset TEXT NOT NULL, document TEXT NOT NULL,
    stored INTEGER NOT NULL DEFAULT 0, {_REQUEST_COLUMN});
CREATE INDEX by_dataset ON events (dataset, time);
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
PRAGMA user_version = {SCHEMA_VERSION};
"""


def open_store(path: Path) -> sqlite3.Connection:
    """Open the store at `path`; create it if it does not exist.

    Raises:
        sqlite3.Error: also if another release made the store.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    db = connect(path, SCHEMA)
    try:
        version = int(db.execute("PRAGMA user_version").fetchone()[0])
        if version != SCHEMA_VERSION:
            raise sqlite3.DatabaseError(f"it has tables of version {version}, and this release knows {SCHEMA_VERSION}")
    except BaseException:
        db.close()
        raise
    return db
