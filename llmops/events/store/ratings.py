"""User ratings, joined to their requests when either is stored. The last rating of a key counts.

Ratings are kept longer than the events of their requests.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from llmops.events.datasets import SERVING

_FIND_REQUEST = f"""
SELECT time, coalesce(json_extract(document, '$."llmops.model.version"'), '') FROM events INDEXED BY by_request
WHERE request = ? AND dataset = '{SERVING}' LIMIT 1
"""


def join_requests(db: sqlite3.Connection, events: Iterable[Mapping[str, Any]]) -> None:
    """Join new requests to ratings that arrived before them."""
    waiting = {request for (request,) in db.execute("SELECT request FROM ratings WHERE asked IS NULL")}
    rows = [(e["@timestamp"], str(e.get("llmops.model.version") or ""), e["http.request.id"])
            for e in events if waiting and e.get("http.request.id") in waiting]  # fmt: skip
    db.executemany("UPDATE ratings SET asked = ?, version = ? WHERE request = ? AND asked IS NULL", rows)


def add_ratings(db: sqlite3.Connection, events: Iterable[Mapping[str, Any]]) -> None:
    """Store ratings. The later rating stays, whatever the order of arrival."""
    for event in events:
        rating, request = event.get("llmops.feedback.rating"), event.get("http.request.id")
        if not rating or not request:
            continue
        asked, version = db.execute(_FIND_REQUEST, (str(request),)).fetchone() or (None, None)
        db.execute(
            "INSERT INTO ratings VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (request, key) DO UPDATE "
            "SET rating = excluded.rating, said = excluded.said WHERE excluded.said >= said",
            (str(request), str(event.get("llmops.key.prefix")), str(rating), event["@timestamp"], asked, version),
        )


def count_ratings(db: sqlite3.Connection, since: str, until: str) -> Sequence[tuple[str, str, int]]:
    """Return (version, rating, count) for the requests of a window."""
    return db.execute(
        "SELECT version, rating, count(*) FROM ratings WHERE asked >= ? AND asked < ? AND version != '' "
        "GROUP BY version, rating",
        (since, until),
    ).fetchall()
