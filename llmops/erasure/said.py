"""Take what a person has said of answers out of the database of reviews and out of the event databases here.

Theirs is what a key of theirs has said (`llmops keys create --owner`), and what names them. Of a row only its id stays,
so that the event, should it still lie elsewhere, does not bring it back.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import polars as pl

from llmops.access import rows as keys
from llmops.config import Config
from llmops.data.feedback import documents, review, rows
from llmops.data.feedback.rows import Review
from llmops.erasure.search import quoted
from llmops.erasure.subject import Subject
from llmops.errors import ConfigError
from llmops.monitoring.database import BUSY_S
from llmops.monitoring.datasets import FEEDBACK, TEXT
from llmops.monitoring.events import timestamp
from llmops.state import audit
from llmops.state.database import Database

_GONE = {
    **dict.fromkeys(("question", "context", "answer", "correction", "comment", "edited", "why", "key", "joined"), ""),
    "state": rows.FORGOTTEN,
}


def prefixes(database: Database, subject: Subject) -> set[str]:
    """The prefixes of the keys whose owner is the person."""
    if database.absent:
        return set()
    with database.read() as connection:
        return {key.prefix for key in keys.every(connection) if subject.named_in(key.owner)}


def take_in(config: Config) -> None:
    """Take in what was said and is not there yet, so that its id is known when its event comes again: nothing is erased
    in Elasticsearch from here. Events of the local store are erased themselves.

    Raises:
        EventsUnavailable: if they cannot be read now.
    """
    if "local" not in config.monitoring.sinks:
        with suppress(ConfigError):  # events that nobody here can read come back to nobody
            review.refresh(config)


def find(database: Database, subject: Subject) -> list[str]:
    """The ids of the rows that a key of theirs has said, or that name them."""
    theirs, found = prefixes(database, subject), rows.read(database)
    named = set(subject.rows(pl.Series([_texts(row) for row in found], dtype=pl.String)))
    return [row.id for at, row in enumerate(found) if at in named or row.key in theirs]


def document_ids(config: Config, ids: Iterable[str]) -> set[str]:
    """The ids of the documents that were made of rows."""
    names = [source.name for source in config.collect.sources if source.kind == "feedback"]
    return {documents.document_id(name, id) for id in ids for name in names}


def erase(database: Database, ids: Collection[str], theirs: Collection[str] = ()) -> None:
    """Leave nothing of rows but their ids; what says the same as one of them is judged again, or stays refused.

    Args:
        database: where they are.
        ids: of the rows.
        theirs: prefixes of the person's keys: what they have said until now and comes later, from the spool of another
            machine say, is not taken in any more.
    """
    if not ids and not theirs:
        return
    with database.change() as connection:
        found = rows.every(connection)
        refused = {row.id: row for row in found if row.id in ids and row.reviewed and row.state == "refused"}
        for row in found:
            if row.id in ids:
                rows.put(connection, row.id, **_GONE)
            elif head := refused.get(row.joined):  # a person has refused it, whoever else has said it
                done = {"state": head.state, "by": head.by, "decided": head.decided}
                rows.put(connection, row.id, joined="", why="", **done)
            elif row.joined in ids:
                rows.put(connection, row.id, joined="", state="waiting", by="", decided="", why="")
        rows.forget_reasons(connection, ids)
        fields = {"rows": len(ids), "keys": sorted(theirs), "until": timestamp()}
        audit.note(connection, "forget", by="erasure", target="reviews", fields=fields)
    database.purge()


def events(path: Path, theirs: Collection[str]) -> list[tuple[str, int]]:
    """Table and row number of the events in a database that a key of theirs has said, their texts included."""
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=BUSY_S)) as database:
            return list(_events(database, theirs)) if theirs else []
    except sqlite3.DatabaseError:
        return []


def erase_events(path: Path, theirs: Collection[str]) -> None:
    """Delete those events, and leave nothing of them in the file."""
    with closing(sqlite3.connect(path, timeout=BUSY_S)) as database:
        with database:
            gone = list(_events(database, theirs))
            for table, number in gone:
                database.execute(f"DELETE FROM {quoted(table)} WHERE rowid = ?", (number,))
        if gone:
            database.execute("VACUUM")
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _events(database: sqlite3.Connection, theirs: Collection[str]) -> Iterator[tuple[str, int]]:
    """Table and row number of each, dead letters among them."""
    tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    like = f"%{'llmops.key.prefix'}%"
    for table in ("events", *({"rejected"} & tables)):
        select = f"SELECT rowid, document FROM {quoted(table)} WHERE document LIKE ?"
        for number, text in database.execute(select, (like,)):
            event = json.loads(text)
            if event.get("llmops.key.prefix") in theirs and event.get("event.dataset") in (FEEDBACK, TEXT):
                yield table, number


def _texts(row: Review) -> str:
    return "\n".join((row.question, row.context, row.answer, row.correction, row.comment, row.edited, row.why))
