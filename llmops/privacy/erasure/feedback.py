"""Delete a person's feedback, keys and events from the databases of this home.

Feedback is the person's if it came with one of their keys (`llmops keys create --owner`), or if it names them. Only the
id of a review stays, so that a copy of its event elsewhere does not bring it back.
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
from llmops.events.database import BUSY_TIMEOUT_S
from llmops.events.datasets import FEEDBACK, TEXT
from llmops.events.events import format_timestamp
from llmops.frame.errors import ConfigError
from llmops.privacy.erasure.search import find_cells, read_cells
from llmops.privacy.erasure.subject import Subject
from llmops.state import audit, tables
from llmops.state.database import Database

_TEXTS = ("question", "context", "answer", "correction", "comment", "edited", "why")
_FORGOTTEN_VALUES = {**dict.fromkeys((*_TEXTS, "key", "joined"), ""), "state": rows.FORGOTTEN}


def find_keys(database: Database, subject: Subject) -> list[str]:
    """Return the prefixes of the person's keys."""
    if not database.exists:
        return []
    with database.read() as connection:
        return [key.prefix for key in keys.list_all(connection) if subject.is_named_in(key.owner)]


def store_new_feedback(config: Config) -> None:
    """Store new feedback, so that its id is known if its event comes again.

    Only Elasticsearch needs this, because nothing is erased there. Events of the local store are erased.

    Raises:
        EventsUnavailable: if the events cannot be read now.
    """
    if "local" not in config.monitoring.sinks:
        with suppress(ConfigError):  # without a sink that can be read, no event comes back
            review.refresh(config)


def find_reviews(database: Database, subject: Subject, prefixes: Collection[str]) -> list[str]:
    """Return the ids of the reviews that came with one of the keys, or that name the person."""
    found = rows.read(database)
    texts = pl.Series(["\n".join(getattr(row, name) for name in _TEXTS) for row in found], dtype=pl.String)
    named = set(subject.find_rows(texts))
    return [row.id for at, row in enumerate(found) if at in named or row.key in prefixes]


def list_document_ids(config: Config, ids: Collection[str]) -> set[str]:
    """Return the ids of the documents that were made of reviews."""
    names = [source.name for source in config.collect.sources if source.kind == "feedback"]
    return {documents.make_document_id(name, id) for id in ids for name in names}


def forget_reviews(database: Database, ids: Collection[str], prefixes: Collection[str]) -> None:
    """Delete everything but the ids of the reviews, and the keys with these prefixes and their usage.

    Reviews that were joined to one of these are judged again, or stay refused. Feedback that was given with the keys
    until now and arrives later, for example from the spool of another machine, is not stored.
    """
    if not ids and not prefixes:
        return
    with database.change() as connection:
        found = rows.select(connection)
        refused = {row.id: row for row in found if row.id in ids and row.reviewed and row.state == "refused"}
        for row in found:
            if row.id in ids:
                rows.update(connection, row.id, **_FORGOTTEN_VALUES)
            elif head := refused.get(row.joined):  # the refusal holds for everybody who gave this feedback
                decision = {"state": head.state, "by": head.by, "decided": head.decided}
                rows.update(connection, row.id, joined="", why="", **decision)
            elif row.joined in ids:
                rows.update(connection, row.id, joined="", state="waiting", by="", decided="", why="")
        rows.delete_reasons(connection, ids)
        connection.execute(sa.delete(tables.keys).where(tables.keys.c.prefix.in_(list(prefixes))))
        connection.execute(sa.delete(tables.usage).where(tables.usage.c.key.in_(list(prefixes))))
        fields = {"rows": len(ids), "keys": sorted(prefixes), "until": format_timestamp()}
        audit.record(connection, "forget", by="erasure", target="reviews", fields=fields)


def forget_events(path: Path, subject: Subject, prefixes: Collection[str]) -> None:
    """Delete the rows of an event database that name the person or are feedback with these keys; dead letters, too.

    Then the file is rewritten (`VACUUM`), because its free pages would still name the person. Other processes may use
    it meanwhile.
    """
    with closing(sqlite3.connect(path, timeout=BUSY_TIMEOUT_S)) as database:
        deleted = {(table, row) for table, _, row, _ in find_cells(read_cells(database), subject)}
        for table, column, row, text in read_cells(database) if prefixes else ():
            if column == "document" and '"llmops.key.prefix"' in text:
                event = json.loads(text)
                if event["llmops.key.prefix"] in prefixes and event.get("event.dataset") in (FEEDBACK, TEXT):
                    deleted.add((table, row))
        with database:
            for table, row in deleted:
                database.execute(f'DELETE FROM "{table}" WHERE rowid = ?', (row,))
        if deleted:
            database.execute("VACUUM")
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
