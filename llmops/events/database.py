"""A SQLite file that many processes of one machine can write. Every commit survives a power cut."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from llmops.frame.artifacts import hold_lock

BUSY_TIMEOUT_S = 30.0  #: seconds a writer waits for another one before it gives up


def connect(path: Path, schema: str) -> sqlite3.Connection:
    """Open the database at `path`. Create it with `schema` if it does not exist.

    The write-ahead log lets readers continue while one process writes. It needs a local disk, not a network file
    system. The connection is a context manager of one transaction. The caller closes it.
    """
    if not path.exists():
        with hold_lock(path):
            if not path.exists():
                _create_database(path, schema)
    db = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S)
    db.execute("PRAGMA synchronous = FULL")  # NORMAL, the habit with WAL, may lose the last commits in a power cut
    return db


def _create_database(path: Path, schema: str) -> None:
    """Create the file under another name and rename it, so that no process opens a database without tables."""
    partial = path.with_name(f".{path.name}.new")
    for leftover in (partial, *(partial.with_name(partial.name + end) for end in ("-wal", "-shm"))):
        leftover.unlink(missing_ok=True)
    db = sqlite3.connect(partial)
    db.execute("PRAGMA journal_mode = WAL")
    db.executescript(schema)
    db.close()
    partial.replace(path)
