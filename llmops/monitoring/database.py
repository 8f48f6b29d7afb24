"""Opening a SQLite file that many processes of one machine write, durable at every commit."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from llmops.artifacts import locked

BUSY_S = 30.0  #: how long a writer waits for another before it gives up


def connect(path: Path, schema: str) -> sqlite3.Connection:
    """Open the database at `path`, making it with `schema` first if it is not there.

    Write-ahead logging lets readers go on while one writes. It needs a local disk, no network file system.
    The connection is a context manager of one transaction; close it when done.
    """
    if not path.exists():
        with locked(path):
            if not path.exists():
                _create(path, schema)
    db = sqlite3.connect(path, timeout=BUSY_S)
    db.execute("PRAGMA synchronous = FULL")  # NORMAL, the habit with WAL, may lose the last commits in a power cut
    return db


def _create(path: Path, schema: str) -> None:
    """Make the file beside its place and move it in, so that nobody ever opens one without its tables."""
    partial = path.with_name(f".{path.name}.new")
    for leftover in (partial, *(partial.with_name(partial.name + end) for end in ("-wal", "-shm"))):
        leftover.unlink(missing_ok=True)
    db = sqlite3.connect(partial)
    db.execute("PRAGMA journal_mode = WAL")
    db.executescript(schema)
    db.close()
    os.replace(partial, path)
