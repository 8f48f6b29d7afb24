"""The local event store: a SQLite file in the events folder. It is a sink and a reader."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from llmops.config import Monitoring
from llmops.events.datasets import FEEDBACK, SERVING
from llmops.events.figures.requests import Summary, Tally, count_steps, sum_tallies
from llmops.events.sinks.sink import Rejection, SinkError
from llmops.events.store import pruning, ratings, rollups, schema
from llmops.events.store.rollups import HOUR, MINUTE
from llmops.events.times import format_timestamp, parse_epoch
from llmops.frame.errors import EventsUnavailable

MAX_EXACT = 2000  #: up to this number requests are read one by one, for exact percentiles; that takes 25 ms
_PATH, _STATUS = (f"""json_extract(document, '$."{name}"')""" for name in ("url.path", "http.response.status_code"))
MIN_PRUNED = 1000  #: least number of expired events of a kind that one delivery removes


class LocalStore:
    """The local event store: events for a while, roll-ups of requests for longer.

    An event is stored and counted in one transaction, once per `event.id`.
    """

    name = "local"

    def __init__(self, folder: Path, config: Monitoring | None = None, max_exact: int = MAX_EXACT) -> None:
        self._path = folder / "store.db"
        self._config = config or Monitoring()
        self._max_exact = max_exact

    def send(self, events: Sequence[dict[str, Any]]) -> list[Rejection]:
        """See `Sink`."""
        now = datetime.now(UTC)
        try:
            with closing(schema.open_store(self._path)) as db:
                db.execute("BEGIN IMMEDIATE")
                with db:
                    new = [event for event in events if _insert_event(db, event, int(now.timestamp()))]
                    requests = [event for event in new if event["event.dataset"] == SERVING]
                    rollups.count_requests(db, requests, now.timestamp())
                    ratings.join_requests(db, requests)
                    ratings.add_ratings(db, [event for event in new if event["event.dataset"] == FEEDBACK])
                    pruning.prune_events(db, self._config, now, max(MIN_PRUNED, 2 * len(events)))
        except (sqlite3.Error, OSError) as error:
            raise SinkError(f"The event store {self._path} cannot be written ({error}).") from error
        return []

    def close(self) -> None:
        """Do nothing: no connection stays open."""

    def find(
        self, dataset: str, since: str = "", until: str = "~", limit: int = -1, newest_first: bool = False
    ) -> Iterator[dict[str, Any]]:
        """See `Reader`."""
        order = "DESC" if newest_first else "ASC"
        with self._open_for_reading() as db:
            rows = db.execute(
                "SELECT document FROM events WHERE dataset = ? AND time >= ? AND time < ? "
                f"ORDER BY time {order}, id {order} LIMIT ?",
                (dataset, since, until, limit),
            )
            for (document,) in rows:
                yield json.loads(document)

    def select(self, dataset: str, fields: Sequence[str], since: str = "", until: str = "~") -> list[tuple[Any, ...]]:
        """See `Reader`. This takes a tenth of the time of `find`."""
        with self._open_for_reading() as db:
            return _select_fields(db, dataset, fields, since, until)

    def summarize(self, since: datetime, until: datetime, step: timedelta | None = None) -> Summary:
        """See `Reader`. Few requests are read one by one, for exact percentiles.

        Otherwise roll-ups are read: of minutes (recent days) or hours, if the window and its steps consist of whole
        ones. Times before the oldest stored request are counted in whole hours.
        """
        with self._open_for_reading() as db:
            first, last = format_timestamp(since), format_timestamp(until)
            complete = first >= pruning.find_complete_since(db, SERVING)
            length, count = _choose_rollup_length(since, until, step), count_steps(since, until, step)
            if complete and (not length or _count_requests(db, first, last, self._max_exact + 1) <= self._max_exact):
                return sum_tallies(_read_exact_tallies(db, first, last, since, step), count)
            length, size = length or HOUR, int(step.total_seconds()) if step else 0
            start, end = (int(moment.timestamp()) // length * length for moment in (since, until))
            return sum_tallies(rollups.read_tallies(db, length, start, end, int(since.timestamp()), size), count)

    def count_by_path(self, since: datetime, until: datetime) -> dict[str, tuple[int, int]]:
        """See `Reader`. A million requests take 3 s."""
        with self._open_for_reading() as db:
            rows = db.execute(
                f"SELECT {_PATH}, count(*), sum({_STATUS} >= 500) FROM events WHERE dataset = ? AND time >= ? "
                f"AND time < ? AND {_STATUS} > 0 AND NOT {_STATUS} BETWEEN 400 AND 499 GROUP BY 1",
                (SERVING, format_timestamp(since), format_timestamp(until)),
            )
            return {path or "": (total, failed) for path, total, failed in rows}

    def count_ratings(self, since: datetime, until: datetime) -> dict[str, dict[str, int]]:
        """See `Reader`."""
        ratings_by_version: dict[str, dict[str, int]] = {}
        with self._open_for_reading() as db:
            for version, rating, count in ratings.count_ratings(db, format_timestamp(since), format_timestamp(until)):
                ratings_by_version.setdefault(version, {})[rating] = count
        return ratings_by_version

    def prune(self, now: datetime | None = None) -> int:
        """Remove all expired data, in steps so that others can write in between. Return the number of events."""
        removed, step = 0, -1
        with closing(schema.open_store(self._path)) as db:
            while step:
                db.execute("BEGIN IMMEDIATE")
                with db:
                    step = pruning.prune_events(db, self._config, now or datetime.now(UTC), MIN_PRUNED)
                removed += step
                time.sleep(0)
        return removed

    @contextmanager
    def _open_for_reading(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(schema.open_store(self._path)) as db:
                yield db
        except (sqlite3.Error, OSError) as error:
            message = f"The event store {self._path} cannot be read ({error})."
            raise EventsUnavailable(message, "the local store") from error


def _choose_rollup_length(since: datetime, until: datetime, step: timedelta | None) -> int:
    """Return the length in seconds of the roll-ups that fit the window; 0 if none fit."""
    edges = [since.timestamp(), until.timestamp(), step.total_seconds() if step else 0.0]
    if not any(edge % HOUR for edge in edges):
        return HOUR
    recent = datetime.now(UTC) - since < timedelta(days=rollups.MINUTE_DAYS, hours=-1)
    return MINUTE if recent and not any(edge % MINUTE for edge in edges) else 0


def _insert_event(db: sqlite3.Connection, event: dict[str, Any], now: int) -> bool:
    """Store an event, and return True if it was new."""
    row = (event["event.id"], event["@timestamp"], event["event.dataset"], json.dumps(event, ensure_ascii=False), now)
    insert = "INSERT OR IGNORE INTO events (id, time, dataset, document, stored) VALUES (?, ?, ?, ?, ?)"
    return db.execute(insert, row).rowcount == 1


def _count_requests(db: sqlite3.Connection, since: str, until: str, limit: int) -> int:
    query = "SELECT count(*) FROM (SELECT 1 FROM events WHERE dataset = ? AND time >= ? AND time < ? LIMIT ?)"
    return int(db.execute(query, (SERVING, since, until, limit)).fetchone()[0])


def _select_fields(
    db: sqlite3.Connection, dataset: str, fields: Sequence[str], since: str, until: str
) -> list[tuple[Any, ...]]:
    select = ", ".join("json_extract(document, ?)" for _ in fields)
    paths = [f'$."{field}"' for field in fields]
    return db.execute(
        f"SELECT {select} FROM events WHERE dataset = ? AND time >= ? AND time < ? ORDER BY time",
        (*paths, dataset, since, until),
    ).fetchall()


def _read_exact_tallies(
    db: sqlite3.Connection, first: str, last: str, since: datetime, step: timedelta | None
) -> Iterator[tuple[int, str, Tally]]:
    start, size = since.timestamp(), step.total_seconds() if step else 0.0
    for values in _select_fields(db, SERVING, rollups.REQUEST_FIELDS, first, last):
        if (moment := parse_epoch(values[0])) is not None:
            (version, _, _), tally = rollups.tally_request(values)
            yield int((moment - start) // size) if size else -1, version, tally
