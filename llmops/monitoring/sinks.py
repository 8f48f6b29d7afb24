"""Sinks: where events end up. The local event store (SQLite) and Elasticsearch.

A sink's `send` returns once all events are stored for good, and may be given an event again: it deduplicates by
`event.id`. Adding a sink: write the three members of `Sink`, and name it in `sinks_for` and in `Monitoring.sinks`.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from llmops.config import Monitoring
from llmops.errors import TransientError
from llmops.monitoring.database import connect

SCHEMA = """
CREATE TABLE events (id TEXT PRIMARY KEY, time TEXT NOT NULL, dataset TEXT NOT NULL, document TEXT NOT NULL);
CREATE INDEX by_dataset ON events (dataset, time);
CREATE INDEX by_time ON events (time);
"""


class SinkError(TransientError):
    """A sink cannot take events now; they wait in the spool."""


@dataclass(frozen=True, slots=True)
class Rejection:
    """An event that a sink refuses for good."""

    id: str
    reason: str
    document: dict[str, Any]


class Sink(Protocol):
    """Where events go."""

    name: str

    def send(self, events: Sequence[dict[str, Any]]) -> list[Rejection]:
        """Store events for good, those refused for good excepted, which are returned.

        Raises:
            SinkError: if not all could be stored now; all are sent again later.
        """

    def close(self) -> None:
        """Let go of connections."""


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


class ElasticsearchSink:
    """Elasticsearch: a data stream or an index, with `event.id` as `_id`, so that a repeated event changes nothing.

    In a data stream that has rolled over in between, a repeated event is stored twice; it still carries its `event.id`.
    """

    name = "elasticsearch"

    def __init__(self, client: Any, index: str) -> None:
        self._client, self._index = client, index

    @classmethod
    def connect(cls, url: str, index: str, api_key: str = "") -> ElasticsearchSink:
        """A sink for the server at `url`; nothing is sent yet."""
        from elasticsearch import Elasticsearch

        return cls(Elasticsearch(url, api_key=api_key or None, request_timeout=10, max_retries=0), index)

    def send(self, events: Sequence[dict[str, Any]]) -> list[Rejection]:
        """See `Sink`."""
        from elasticsearch import ApiError, TransportError
        from elasticsearch.helpers import streaming_bulk

        actions = [{"_op_type": "create", "_index": self._index, "_id": e["event.id"], "_source": e} for e in events]
        rejections, busy = [], ""
        try:
            results = streaming_bulk(self._client, actions, raise_on_error=False)
            for event, (stored, item) in zip(events, results, strict=True):
                answer = item["create"]
                status = int(answer["status"])
                if stored or status == 409:  # conflict: it is there already
                    continue
                if status == 429 or status >= 500:
                    busy = busy or _reason(answer)
                else:
                    rejections.append(Rejection(str(event["event.id"]), _reason(answer), dict(event)))
        except (ApiError, TransportError) as error:
            raise SinkError(f"Elasticsearch does not take events ({error}).") from error
        if busy:
            raise SinkError(f"Elasticsearch could not store all events ({busy}).")
        return rejections

    def close(self) -> None:
        """See `Sink`."""
        self._client.close()


def sinks_for(folder: Path, config: Monitoring, environ: Mapping[str, str] = os.environ) -> list[Sink]:
    """The configured sinks; the Elasticsearch key is read from `ELASTICSEARCH_API_KEY`."""
    sinks: list[Sink] = []
    for name in dict.fromkeys(config.sinks):
        if name == "local":
            sinks.append(LocalStore(folder))
        else:
            key = environ.get("ELASTICSEARCH_API_KEY", "")
            sinks.append(ElasticsearchSink.connect(config.elasticsearch_url, config.elasticsearch_index, key))
    return sinks


def _reason(answer: Mapping[str, Any]) -> str:
    error = answer.get("error")
    if isinstance(error, Mapping):
        return f"{answer['status']} {error.get('type')}: {error.get('reason')}"
    return f"{answer['status']} {error}"
