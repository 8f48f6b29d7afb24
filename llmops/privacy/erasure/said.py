"""Take a person's feedback, keys and events out of the databases here.

Feedback is theirs if a key of theirs has given it (`llmops keys create --owner`), or if it names them. Only the id of a
review stays, so that its event, should it still lie elsewhere, does not bring it back.
"""

import json
import sqlite3
from collections.abc import Collection
from contextlib import closing, suppress
from pathlib import Path

import polars as pl
import sqlalchemy as sa

from llmops.access import rows as keys
from llmops.config import Config
from llmops.data.feedback import documents, review, rows
from llmops.events.database import BUSY_S
from llmops.events.datasets import FEEDBACK, TEXT
from llmops.events.events import timestamp
from llmops.frame.errors import ConfigError
from llmops.privacy.erasure.search import cells, naming_cells
from llmops.privacy.erasure.subject import Subject
from llmops.state import audit, tables
from llmops.state.database import Database

_TEXTS = ("question", "context", "answer", "correction", "comment", "edited", "why")
_GONE = {**dict.fromkeys((*_TEXTS, "key", "joined"), ""), "state": rows.FORGOTTEN}


def prefixes(database: Database, subject: Subject) -> list[str]:
    """Return the prefixes of the keys whose owner is the person."""
    if database.absent:
        return []
    with database.read() as connection:
        return [key.prefix for key in keys.every(connection) if subject.named_in(key.owner)]


def take_in(config: Config) -> None:
    """Store new feedback, so that its id is known if its event comes again.

    Only Elasticsearch needs this, where nothing is erased from here. Events of the local store are erased themselves.

    Raises:
        EventsUnavailable: if the events cannot be read now.
    """
    if "local" not in config.monitoring.sinks:
        with suppress(ConfigError):  # events that nobody here can read come back to nobody
            review.refresh(config)


def find(database: Database, subject: Subject, theirs: Collection[str]) -> list[str]:
    """Return the ids of the reviews that a key of theirs has given, or that name them."""
    found = rows.read(database)
    texts = pl.Series(["\n".join(getattr(row, name) for name in _TEXTS) for row in found], dtype=pl.String)
    named = set(subject.rows(texts))
    return [row.id for at, row in enumerate(found) if at in named or row.key in theirs]


def document_ids(config: Config, ids: Collection[str]) -> set[str]:
    """Return the ids of the documents that were made of reviews."""
    names = [source.name for source in config.collect.sources if source.kind == "feedback"]
    return {documents.document_id(name, id) for id in ids for name in names}


def forget(database: Database, ids: Collection[str], theirs: Collection[str]) -> None:
    """Leave nothing of reviews but their ids, and nothing of the person's keys, given by prefix.

    Reviews that say the same as one of these are judged again, or stay refused. Feedback that the keys gave until now
    and that comes later, from the spool of another machine say, is not taken in any more.
    """
    if not ids and not theirs:
        return
    with database.change() as connection:
        found = rows.select(connection)
        refused = {row.id: row for row in found if row.id in ids and row.reviewed and row.state == "refused"}
        for row in found:
            if row.id in ids:
                rows.update(connection, row.id, **_GONE)
            elif head := refused.get(row.joined):  # a person has refused it, whoever else has said it
                done = {"state": head.state, "by": head.by, "decided": head.decided}
                rows.update(connection, row.id, joined="", why="", **done)
            elif row.joined in ids:
                rows.update(connection, row.id, joined="", state="waiting", by="", decided="", why="")
        rows.delete_reasons(connection, ids)
        connection.execute(sa.delete(tables.keys).where(tables.keys.c.prefix.in_(list(theirs))))
        fields = {"rows": len(ids), "keys": sorted(theirs), "until": timestamp()}
        audit.note(connection, "forget", by="erasure", target="reviews", fields=fields)


def forget_events(path: Path, subject: Subject, theirs: Collection[str]) -> None:
    """Delete the rows of an event database that name the person or are their keys' feedback; dead letters, too.

    The file is then written anew (`VACUUM`), since its free pages would still name them. Others may use it meanwhile.
    """
    with closing(sqlite3.connect(path, timeout=BUSY_S)) as database:
        gone = {(table, row) for table, _, row, _ in naming_cells(cells(database), subject)}
        for table, column, row, text in cells(database) if theirs else ():
            if column == "document" and '"llmops.key.prefix"' in text:
                event = json.loads(text)
                if event["llmops.key.prefix"] in theirs and event.get("event.dataset") in (FEEDBACK, TEXT):
                    gone.add((table, row))
        with database:
            for table, row in gone:
                database.execute(f'DELETE FROM "{table}" WHERE rowid = ?', (row,))
        if gone:
            database.execute("VACUUM")
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
