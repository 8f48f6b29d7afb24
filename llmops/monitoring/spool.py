"""The spool: events wait here, on disk, until every sink has confirmed them.

One SQLite file, written by any number of processes of one machine. Each sink has a position: the number of the last
event that it has confirmed. An event leaves the spool when every sink that was ever shipped to has it, so delivery is
at least once, and sinks deduplicate by `event.id`. What a sink refuses for good (a field of the wrong type, say)
goes to the table `rejected` with the reason, in the same transaction that moves the position.
"""

from __future__ import annotations

import json
import logging
import random
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from llmops.config import Monitoring
from llmops.monitoring.database import connect
from llmops.monitoring.sinks.base import Rejection, Sink, SinkError
from llmops.monitoring.sinks.configured import sinks_for

log = logging.getLogger(__name__)

BATCH = 500  #: events per delivery
SCHEMA = """
CREATE TABLE events (seq INTEGER PRIMARY KEY AUTOINCREMENT, document TEXT NOT NULL);
CREATE TABLE positions (sink TEXT PRIMARY KEY, seq INTEGER NOT NULL);
CREATE TABLE rejected (
    sink TEXT NOT NULL, id TEXT NOT NULL, reason TEXT NOT NULL, document TEXT NOT NULL, PRIMARY KEY (sink, id));
"""


@dataclass(frozen=True, slots=True)
class Shipment:
    """What one `ship` did for one sink."""

    sent: int = 0  #: events that the sink confirmed
    rejected: int = 0  #: of these, refused for good and kept in `rejected`
    error: str = ""  #: why it stopped before the end; the rest waits in the spool


class Spool:
    """An open spool. One connection of one thread: open another elsewhere.

    Who commits often keeps it open: a commit alone takes 0.3 ms, one with opening and closing 2.5 ms, since the last to
    close the file writes its log back.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._db = connect(folder / "spool.db", SCHEMA)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    def append(self, events: Iterable[Mapping[str, Any]]) -> None:
        """Commit events; when this returns they survive a crash of the process and of the machine."""
        rows = [(json.dumps(event, ensure_ascii=False),) for event in events]
        with self._db:
            self._db.executemany("INSERT INTO events (document) VALUES (?)", rows)

    def read(self, sink: str, limit: int = BATCH) -> tuple[int, list[dict[str, Any]]]:
        """The oldest events that `sink` has not confirmed, and the number to `ack` once it has."""
        rows = self._db.execute(
            "SELECT seq, document FROM events WHERE seq > coalesce((SELECT seq FROM positions WHERE sink = ?), 0) "
            "ORDER BY seq LIMIT ?",
            (sink, limit),
        ).fetchall()
        return (rows[-1][0] if rows else 0), [json.loads(document) for _, document in rows]

    def ack(self, sink: str, seq: int, rejections: Sequence[Rejection] = ()) -> None:
        """Note that `sink` has everything up to `seq`, and drop what all sinks have."""
        rejected = [(sink, r.id, r.reason, json.dumps(r.document, ensure_ascii=False)) for r in rejections]
        with self._db:
            self._db.execute("INSERT OR IGNORE INTO positions VALUES (?, 0)", (sink,))
            self._db.execute("UPDATE positions SET seq = max(seq, ?) WHERE sink = ?", (seq, sink))
            self._db.executemany("INSERT OR REPLACE INTO rejected VALUES (?, ?, ?, ?)", rejected)
            self._db.execute("DELETE FROM events WHERE seq <= (SELECT min(seq) FROM positions)")

    def register(self, sinks: Iterable[str]) -> None:
        """Keep events for these sinks from now on, and what waits already."""
        with self._db:
            self._db.executemany("INSERT OR IGNORE INTO positions VALUES (?, 0)", [(sink,) for sink in sinks])

    def forget(self, sink: str) -> None:
        """No longer keep events for a sink that is not coming back."""
        with self._db:
            self._db.execute("DELETE FROM positions WHERE sink = ?", (sink,))

    def waiting(self) -> dict[str, int]:
        """How many events each known sink has yet to confirm."""
        rows = self._db.execute(
            "SELECT sink, (SELECT count(*) FROM events WHERE events.seq > positions.seq) FROM positions"
        )
        return {sink: count for sink, count in rows}

    def rejected(self) -> list[tuple[str, Rejection]]:
        """What sinks refused for good, each with the sink's name."""
        rows = self._db.execute("SELECT sink, id, reason, document FROM rejected")
        return [(sink, Rejection(event, reason, json.loads(document))) for sink, event, reason, document in rows]


def ship(folder: Path, sinks: Sequence[Sink]) -> dict[str, Shipment]:
    """Bring every waiting event to every sink; a sink that is down keeps its events waiting and stops no other.

    Safe in several processes at once: an event may then arrive twice, never not at all.
    """
    done: dict[str, Shipment] = {}
    with Spool(folder) as spool:
        spool.register(sink.name for sink in sinks)
        for sink in sinks:
            done[sink.name] = _ship_to(spool, sink)
    return done


def drain(folder: Path, config: Monitoring) -> dict[str, Shipment]:
    """Ship everything that waits, once; for a command or a task.

    Raises:
        SinkError: naming each sink that could not take all its events; these wait in the spool.
    """
    sinks = sinks_for(folder, config)
    try:
        done = ship(folder, sinks)
        with Spool(folder) as spool:
            others = {name: count for name, count in spool.waiting().items() if count and name not in done}
    finally:
        for sink in sinks:
            sink.close()
    if others:
        log.warning("The spool keeps events for sinks that monitoring.sinks does not name: %s", others)
    if failed := [f"{name}: {shipment.error}" for name, shipment in done.items() if shipment.error]:
        raise SinkError("Some events could not be delivered and wait in the spool. " + " ".join(failed))
    return done


class Shipper(threading.Thread):
    """Ships in the background every `period_s`; a failing sink less and less often, up to every `longest_s`."""

    def __init__(self, folder: Path, sinks: Sequence[Sink], period_s: float = 1.0, longest_s: float = 60.0) -> None:
        super().__init__(name="shipper", daemon=True)
        self._folder, self._sinks = folder, list(sinks)
        self._period_s, self._longest_s = period_s, longest_s
        self._failures = {sink.name: 0 for sink in sinks}
        self._due = {sink.name: 0.0 for sink in sinks}
        self._stop_asked = threading.Event()

    def run(self) -> None:
        stopping = False
        while not stopping:
            stopping = self._stop_asked.wait(self._period_s)
            try:
                self._turn()
            except Exception:  # the thread outlives a full disk or a defect in a sink; nothing is lost by trying again
                log.exception("Events could not be shipped from %s; they wait there", self._folder)
        for sink in self._sinks:
            sink.close()

    def stop(self, timeout_s: float = 10.0) -> None:
        """Ship once more what waits, and end the thread; what a failing sink did not take waits for the next start."""
        self._stop_asked.set()
        self.join(timeout_s)

    def _turn(self) -> None:
        due = [sink for sink in self._sinks if self._due[sink.name] <= time.monotonic()]
        for name, shipment in ship(self._folder, due).items():
            self._failures[name] = self._failures[name] + 1 if shipment.error else 0
            if shipment.error:
                ceiling = min(self._longest_s, self._period_s * 2 ** min(self._failures[name], 16))
                pause_s = random.uniform(ceiling / 2, ceiling)
                self._due[name] = time.monotonic() + pause_s
                log.warning("Sink %s: %s Next try in %.0f s.", name, shipment.error, pause_s)


def _ship_to(spool: Spool, sink: Sink) -> Shipment:
    sent = rejected = 0
    while True:
        seq, events = spool.read(sink.name)
        if not events:
            return Shipment(sent, rejected)
        try:
            rejections = sink.send(events)
        except SinkError as error:
            return Shipment(sent, rejected, str(error))
        spool.ack(sink.name, seq, rejections)
        for rejection in rejections:
            log.error("Sink %s refuses event %s: %s", sink.name, rejection.id, rejection.reason)
        sent, rejected = sent + len(events), rejected + len(rejections)
