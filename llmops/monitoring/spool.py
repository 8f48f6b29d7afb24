"""The spool: events wait here, on disk, until every sink has confirmed them.

One SQLite file, written by any number of processes of one machine. Each sink has a position: the number of the last
event that it has confirmed. An event leaves the spool when every sink that was ever shipped to has it, so delivery is
at least once, and events that come twice have the same `event.id`. What a sink refuses for good (a field of the wrong
type, say) becomes a dead letter: it goes to the table `rejected` with the reason, in the same transaction that moves
the position.

The spool never takes the disk down: with less left than its bound it accepts no more (`append` raises). What it has
accepted it keeps.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Generator, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from llmops.errors import DiskFullError
from llmops.monitoring.database import connect
from llmops.monitoring.sinks.base import Rejection

BATCH = 500  #: most events of a delivery
BATCH_CHARACTERS = 4_000_000  #: of their documents, the last one excepted; receivers take 20 MB by default
MB = 1_000_000
FREE_MB = 128  #: what is left of the disk where nobody has said otherwise
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
    """The spool takes no more events: there is too little left of its disk, or of what it may use."""


class Spool:
    """An open spool. One connection of one thread: open another elsewhere.

    Who commits often keeps it open: a commit alone takes 0.3 ms, one with opening and closing 2.5 ms, since the last to
    close the file writes its log back.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._db = connect(folder / "spool.db", SCHEMA)
        bounds = dict(self._db.execute("SELECT name, value FROM bounds"))
        self._most, self._free = MB * bounds.get("most", 0), MB * bounds.get("free", FREE_MB)
        self._page_size = self._db.execute("PRAGMA page_size").fetchone()[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    def bound(self, most_mb: int, free_mb: int) -> None:
        """Say how much may wait (0: no bound), and what is left of the disk; for all who open the spool from now on."""
        with self._db:
            rows = [("most", most_mb), ("free", free_mb)]
            self._db.executemany("INSERT OR REPLACE INTO bounds VALUES (?, ?)", rows)
        self._most, self._free = MB * most_mb, MB * free_mb

    def size(self) -> int:
        """Bytes of what waits and of the dead letters; the file may be larger, with pages to be used again."""
        pages, unused = (self._db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count"))
        return int((pages - unused) * self._page_size)

    def append(self, events: Iterable[Mapping[str, Any]]) -> None:
        """Commit events; when this returns they survive a crash of the process and of the machine.

        Raises:
            SpoolFullError: if a bound is reached; none of the events is taken.
        """
        if (free := shutil.disk_usage(self._folder).free) < self._free:
            raise SpoolFullError(
                f"Only {free / MB:,.0f} MB are left on the disk of {self._folder}, and the spool leaves "
                f"{self._free / MB:,.0f} (monitoring.spool_free_mb): events are not recorded. Make room."
            )
        if self._most and (size := self.size()) > self._most:
            raise SpoolFullError(
                f"{size / MB:,.0f} MB wait in the spool {self._folder}, more than monitoring.spool_max_mb: events are "
                "not recorded. `llmops events` says which sink does not take them."
            )
        rows = [(json.dumps(event, ensure_ascii=False),) for event in events]
        with self._db:
            self._db.executemany("INSERT INTO events (document) VALUES (?)", rows)

    def read(self, sink: str, limit: int = BATCH) -> tuple[list[int], list[dict[str, Any]]]:
        """The oldest events that `sink` has not confirmed, each with the number to `ack` once it has."""
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
            if characters > BATCH_CHARACTERS:
                break
        rows.close()
        return numbers, events

    def ack(self, sink: str, seq: int, rejections: Sequence[Rejection] = ()) -> None:
        """Note that `sink` has everything up to `seq`, and drop what all sinks have."""
        with self._db:
            self._db.execute("INSERT OR IGNORE INTO positions VALUES (?, 0)", (sink,))
            self._db.execute("UPDATE positions SET seq = max(seq, ?) WHERE sink = ?", (seq, sink))
            self._reject(sink, rejections)
            self._db.execute("DELETE FROM events WHERE seq <= (SELECT min(seq) FROM positions)")

    def register(self, sinks: Iterable[str]) -> None:
        """Keep events for these sinks from now on, and what waits already."""
        with self._db:
            self._db.executemany("INSERT OR IGNORE INTO positions VALUES (?, 0)", [(sink,) for sink in sinks])

    def forget(self, sink: str) -> None:
        """No longer keep events for a sink that is not coming back, nor its dead letters."""
        with self._db:
            for table in ("positions", "rejected", "states"):
                self._db.execute(f"DELETE FROM {table} WHERE sink = ?", (sink,))
            self._db.execute("DELETE FROM events WHERE seq <= (SELECT min(seq) FROM positions)")

    def waiting(self) -> dict[str, int]:
        """How many events each known sink has yet to confirm."""
        first, last = self._db.execute("SELECT (SELECT min(seq) FROM events), (SELECT max(seq) FROM events)").fetchone()
        rows = self._db.execute("SELECT sink, seq FROM positions").fetchall()
        # numbers have no gaps: a transaction that is undone gives its own back
        return {sink: 0 if last is None else max(0, last - max(seq, first - 1)) for sink, seq in rows}

    def oldest(self, sink: str) -> str:
        """When the oldest event was that waits for a sink; empty where none does."""
        _, events = self.read(sink, 1)
        return str(events[0]["@timestamp"]) if events else ""

    # --- dead letters

    def rejected(self, sink: str = "") -> Generator[tuple[str, Rejection]]:
        """What a sink, or any, refused for good, each with the sink's name; not all in memory at once."""
        after = ("", "")
        while rows := self._db.execute(
            "SELECT sink, id, reason, document FROM rejected WHERE (sink, id) > (?, ?) AND ? IN ('', sink) "
            "ORDER BY sink, id LIMIT ?",
            (*after, sink, BATCH),
        ).fetchall():
            for name, event, reason, document in rows:
                yield name, Rejection(event, reason, json.loads(document))
            after = rows[-1][:2]

    def rejected_counts(self) -> dict[str, int]:
        """How many dead letters each sink has that has any."""
        return dict(self._db.execute("SELECT sink, count(*) FROM rejected GROUP BY sink"))

    def settle(self, sink: str, ids: Iterable[str], rejections: Sequence[Rejection]) -> None:
        """Drop dead letters that were sent again, those excepted that were refused again."""
        with self._db:
            self._db.executemany("DELETE FROM rejected WHERE sink = ? AND id = ?", [(sink, event) for event in ids])
            self._reject(sink, rejections)

    def _reject(self, sink: str, rejections: Sequence[Rejection]) -> None:
        rows = [(sink, r.id, r.reason, json.dumps(r.document, ensure_ascii=False)) for r in rejections]
        self._db.executemany("INSERT OR REPLACE INTO rejected VALUES (?, ?, ?, ?)", rows)

    # --- how sinks fare

    def in_state(self, state: str) -> dict[str, tuple[str, str]]:
        """Sinks that are `failing` or `refusing`, each with since when and why."""
        rows = self._db.execute("SELECT sink, since, reason FROM states WHERE state = ?", (state,))
        return {sink: (since, reason) for sink, since, reason in rows}

    def turn(self, sink: str, state: str, reason: str, event: Mapping[str, Any]) -> None:
        """Note that a sink is in a state, or with an empty `reason` that it no longer is, and append the event of it.

        One transaction, so that of several processes that see the change one says so; no bound keeps the event out.
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
