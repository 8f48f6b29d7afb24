"""The local event store: one SQLite file in the events folder, indexed by time and dataset."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from llmops.monitoring.database import connect
from llmops.monitoring.sinks.base import Rejection, SinkError

SCHEMA = """
CREATE TABLE events (id TEXT PRIMARY KEY, time TEXT NOT NULL, dataset TEXT NOT NULL, document TEXT NOT NULL);
CREATE INDEX by_dataset ON events (dataset, time);
CREATE INDEX by_time ON events (time);
"""


class LocalStore:
    """The local event store: one SQLite file in the events folder, indexed by time and dataset."""

    name = "local"

    def __init__(self, folder: Path) -> None:
        self._path = folder / "store.db"

    def send(self, events: Sequence[dict[str, Any]]) -> list[Rejection]:
        """See `Sink`."""
        rows = [(e["event.id"], e["@timestamp"], e["event.dataset"], json.dumps(e, ensure_ascii=False)) for e in events]
        try:
            with closing(self._open()) as db, db:
                db.executemany("INSERT OR IGNORE INTO events VALUES (?, ?, ?, ?)", rows)
        except (sqlite3.Error, OSError) as error:
            raise SinkError(f"The event store {self._path} cannot be written ({error}).") from error
        return []

    def close(self) -> None:
        """See `Sink`; nothing stays open."""

    def find(
        self, dataset: str, since: str = "", until: str = "~", limit: int = -1, newest_first: bool = False
    ) -> Iterator[dict[str, Any]]:
        """Events of a dataset with `since <= @timestamp < until`, texts as `events.timestamp` makes them."""
        order = "DESC" if newest_first else "ASC"
        with closing(self._open()) as db:
            rows = db.execute(
                "SELECT document FROM events WHERE dataset = ? AND time >= ? AND time < ? "
                f"ORDER BY time {order}, id {order} LIMIT ?",
                (dataset, since, until, limit),
            )
            for (document,) in rows:
                yield json.loads(document)

    def columns(self, dataset: str, fields: Sequence[str], since: str = "", until: str = "~") -> list[tuple[Any, ...]]:
        """Only some fields of the events of a dataset, in order of time: a tenth of the work of `find`."""
        select = ", ".join("json_extract(document, ?)" for _ in fields)
        paths = [f'$."{field}"' for field in fields]
        with closing(self._open()) as db:
            return db.execute(
                f"SELECT {select} FROM events WHERE dataset = ? AND time >= ? AND time < ? ORDER BY time",
                (*paths, dataset, since, until),
            ).fetchall()

    def _open(self) -> sqlite3.Connection:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        return connect(self._path, SCHEMA)
