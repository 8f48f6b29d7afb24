"""The spool: events wait here on disk until every sink has confirmed them.

It is one SQLite file that any number of processes of one machine can write. Each sink has a position: the number of
the last event that it confirmed. An event leaves the spool when every registered sink has it. Delivery is therefore
at least once, and repeated events have the same `event.id`. An event that a sink refuses for good (a field of the
wrong type, say) becomes a dead letter: it moves to the table `rejected` with the reason, in the transaction that moves
the position.

The spool never fills the disk: if less space is left than its bound, `append` raises. It keeps what it has accepted.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Generator, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from llmops.events.database import connect
from llmops.events.sinks.sink import Rejection
from llmops.frame.errors import DiskFullError

BATCH_SIZE = 500  #: most events per delivery
MAX_BATCH_CHARACTERS = 4_000_000  #: a delivery ends with the event that exceeds it; receivers accept 20 MB
MB = 1_000_000
DEFAULT_FREE_MB = 128  #: default of `set_bounds`: disk space that is left free
SCHEMA = """
CREATE TABLE events (seq INTEGER PRIMARY KEY AUTOINCREMENT, document TEXT NOT NULL);
CREATE TABLE positions (sink TEXT PRIMARY KEY, seq INTEGER NOT NULL);
CREATE TABLE rejected (
    sink TEXT NOT NULL, id TEXT NOT NULL, reason TEXT NOT NULL, document TEXT NOT NULL, PRIMARY KEY (sink, id));
CREATE TABLE states (
    sink TEXT NOT NULL, state TEXT NOT NULL, since TEXT NOT NULL, reason TEXT NOT NULL, PRIMARY KEY (sink, state));
CREATE TABLE bounds (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
"""


class SpoolFullError(DiskFullError):
    """The spool accepts no events: its disk or its own limit is nearly full."""


class Spool:
    """An open spool: one connection, for one thread.

    Keep it open for frequent commits. A commit takes 0.3 ms, or 2.5 ms with opening and closing, because the last
    process to close the file writes its log back.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._db = connect(folder / "spool.db", SCHEMA)
        bounds = dict(self._db.execute("SELECT name, value FROM bounds"))
        self._max_bytes, self._free_bytes = MB * bounds.get("most", 0), MB * bounds.get("free", DEFAULT_FREE_MB)
        self._page_size = self._db.execute("PRAGMA page_size").fetchone()[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def set_bounds(self, max_mb: int, free_mb: int) -> None:
        """Set the largest size of the spool (0: unlimited) and the disk space to leave free, from now on."""
        with self._db:
            rows = [("most", max_mb), ("free", free_mb)]
            self._db.executemany("INSERT OR REPLACE INTO bounds VALUES (?, ?)", rows)
        self._max_bytes, self._free_bytes = MB * max_mb, MB * free_mb

    def count_bytes(self) -> int:
        """Return the bytes of waiting events and dead letters. The file may be larger, with pages for reuse."""
        pages, unused = (self._db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count"))
        return int((pages - unused) * self._page_size)

    def append(self, events: Iterable[Mapping[str, Any]]) -> None:
        """Commit events. After the return they survive a crash of the process and of the machine.

        Raises:
            SpoolFullError: if a bound is reached. No event is accepted then.
        """
        if (free := shutil.disk_usage(self._folder).free) < self._free_bytes:
            raise SpoolFullError(
                f"Only {free / MB:,.0f} MB are left on the disk of {self._folder}, and the spool leaves "
                f"{self._free_bytes / MB:,.0f} (monitoring.spool_free_mb): events are not recorded. Make room."
            )
        if self._max_bytes and (size := self.count_bytes()) > self._max_bytes:
            raise SpoolFullError(
                f"{size / MB:,.0f} MB wait in the spool {self._folder}, more than monitoring.spool_max_mb: events are "
                "not recorded. `llmops events` says which sink does not take them."
            )
        rows = [(json.dumps(event, ensure_ascii=False),) for event in events]
        with self._db:
            self._db.executemany("INSERT INTO events (document) VALUES (?)", rows)

    def read(self, sink: str, limit: int = BATCH_SIZE) -> tuple[list[int], list[dict[str, Any]]]:
        """Return the oldest events that `sink` has not confirmed, and their numbers for `ack`."""
        rows = self._db.execute(
            "SELECT seq, document FROM events WHERE seq > coalesce((SELECT seq FROM positions WHERE sink = ?), 0) "
            "ORDER BY seq LIMIT ?",
            (sink, limit),
        )
        numbers, events, characters = [], [], 0
        for number, document in rows:
            numbers.append(number)
            events.append(json.loads(document))
            characters += len(document)
            if characters > MAX_BATCH_CHARACTERS:
                break
        rows.close()
        return numbers, events

    def ack(self, sink: str, seq: int, rejections: Sequence[Rejection] = ()) -> None:
        """Record that `sink` has everything up to `seq`. Delete events that all sinks have."""
        with self._db:
            self._db.execute("INSERT OR IGNORE INTO positions VALUES (?, 0)", (sink,))
            self._db.execute("UPDATE positions SET seq = max(seq, ?) WHERE sink = ?", (seq, sink))
            self._reject(sink, rejections)
            self._db.execute("DELETE FROM events WHERE seq <= (SELECT min(seq) FROM positions)")

    def register(self, sinks: Iterable[str]) -> None:
        """Keep events for these sinks, including the ones that wait already."""
        with self._db:
            self._db.executemany("INSERT OR IGNORE INTO positions VALUES (?, 0)", [(sink,) for sink in sinks])

    def unregister(self, sink: str) -> None:
        """Stop keeping events for a sink that is gone, and delete its dead letters."""
        with self._db:
            for table in ("positions", "rejected", "states"):
                self._db.execute(f"DELETE FROM {table} WHERE sink = ?", (sink,))
            self._db.execute("DELETE FROM events WHERE seq <= (SELECT min(seq) FROM positions)")

    def count_waiting(self) -> dict[str, int]:
        """Return the number of unconfirmed events of each known sink."""
        first, last = self._db.execute("SELECT (SELECT min(seq) FROM events), (SELECT max(seq) FROM events)").fetchone()
        rows = self._db.execute("SELECT sink, seq FROM positions").fetchall()
        # numbers have no gaps: a transaction that is rolled back returns its numbers
        return {sink: 0 if last is None else max(0, last - max(seq, first - 1)) for sink, seq in rows}

    def find_oldest_time(self, sink: str) -> str:
        """Return the time of the oldest event that waits for a sink; empty if none waits."""
        _, events = self.read(sink, 1)
        return str(events[0]["@timestamp"]) if events else ""

    # --- dead letters

    def read_rejected(self, sink: str = "") -> Generator[tuple[str, Rejection]]:
        """Yield the dead letters of a sink (default: all), each with the sink's name, without loading all at once."""
        after = ("", "")
        while rows := self._db.execute(
            "SELECT sink, id, reason, document FROM rejected WHERE (sink, id) > (?, ?) AND ? IN ('', sink) "
            "ORDER BY sink, id LIMIT ?",
            (*after, sink, BATCH_SIZE),
        ).fetchall():
            for name, event, reason, document in rows:
                yield name, Rejection(event, reason, json.loads(document))
            after = rows[-1][:2]

    def count_rejected(self) -> dict[str, int]:
        """Return the number of dead letters of each sink that has any."""
        return dict(self._db.execute("SELECT sink, count(*) FROM rejected GROUP BY sink"))

    def settle_rejected(self, sink: str, ids: Iterable[str], rejections: Sequence[Rejection]) -> None:
        """Delete dead letters that were sent again, except those that were refused again."""
        with self._db:
            self._db.executemany("DELETE FROM rejected WHERE sink = ? AND id = ?", [(sink, event) for event in ids])
            self._reject(sink, rejections)

    def _reject(self, sink: str, rejections: Sequence[Rejection]) -> None:
        rows = [(sink, r.id, r.reason, json.dumps(r.document, ensure_ascii=False)) for r in rejections]
        self._db.executemany("INSERT OR REPLACE INTO rejected VALUES (?, ?, ?, ?)", rows)

    # --- states of sinks

    def find_sinks_in_state(self, state: str) -> dict[str, tuple[str, str]]:
        """Return the sinks in state `failing` or `refusing`, with its beginning and reason."""
        rows = self._db.execute("SELECT sink, since, reason FROM states WHERE state = ?", (state,))
        return {sink: (since, reason) for sink, since, reason in rows}

    def change_state(self, sink: str, state: str, reason: str, event: Mapping[str, Any]) -> None:
        """Start a state of a sink, or end it if `reason` is empty, and append the event about it.

        It is one transaction: if several processes see the change, only one emits the event. No bound applies.
        """
        with self._db:
            if reason:
                row = (sink, state, event["@timestamp"], reason)
                change = self._db.execute("INSERT OR IGNORE INTO states VALUES (?, ?, ?, ?)", row)
            else:
                change = self._db.execute("DELETE FROM states WHERE sink = ? AND state = ?", (sink, state))
            if change.rowcount == 1:
                document = json.dumps(event, ensure_ascii=False)
                self._db.execute("INSERT INTO events (document) VALUES (?)", (document,))
