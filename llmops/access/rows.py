"""Keys as rows of the database, and the file of 0.1.0 that is taken over into it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from llmops.access.roles import Key, NoSuchKey
from llmops.errors import StateError
from llmops.state import audit
from llmops.state.database import Database
from llmops.state.tables import ended_sessions, keys

_FIND = sa.select(keys).where(keys.c.prefix == sa.bindparam("prefix"))  #: built once: each request asks for a key
DONE = ".taken-over"  #: ends the name of the file afterwards


def every(connection: sa.Connection) -> Iterator[Key]:
    """All keys, oldest first."""
    return map(_key, connection.execute(sa.select(keys).order_by(keys.c.created, keys.c.prefix)).all())


def find(connection: sa.Connection, prefix: str) -> Key | None:
    """The key with this prefix, if there is one."""
    row = connection.execute(_FIND, {"prefix": prefix}).first()
    return _key(row) if row else None


def named(connection: sa.Connection, prefix: str) -> Key:
    """The key with this prefix.

    Raises:
        NoSuchKey: if there is none.
    """
    key = find(connection, prefix)
    if key is None:
        raise NoSuchKey(f"No key has the prefix {prefix!r}; `llmops keys list` shows them.")
    return key


def add(connection: sa.Connection, key: Key) -> None:
    """Add a key."""
    connection.execute(sa.insert(keys).values(asdict(key)))


def put(connection: sa.Connection, key: Key) -> Key:
    """Put a key in the place of the one with its prefix."""
    connection.execute(sa.update(keys).where(keys.c.prefix == key.prefix).values(asdict(key)))
    return key


def end_session(connection: sa.Connection, session: str, now: str, until: str) -> None:
    """Remember that a session was signed out, until it would have been over; and forget those that are by now."""
    connection.execute(sa.delete(ended_sessions).where(ended_sessions.c.until <= now))
    if not has_ended(connection, session):
        connection.execute(sa.insert(ended_sessions).values(session=session, until=until))


def has_ended(connection: sa.Connection, session: str) -> bool:
    """Whether a session was signed out."""
    return connection.scalar(sa.select(ended_sessions.c.until).where(ended_sessions.c.session == session)) is not None


def take_over(database: Database, file: Path) -> None:
    """Take over the keys of a file of 0.1.0 that the database has not, and give the file another name.

    Raises:
        StateError: if the file is damaged; nobody is let in by it, and it stays as it is.
    """
    with database.change() as connection:
        try:
            found = [Key(**item) for item in json.loads(file.read_text(encoding="utf-8"))["keys"]]
        except FileNotFoundError:
            return  # somebody was faster
        except (ValueError, TypeError, KeyError) as error:
            raise StateError(f"The file of keys {file} is damaged ({error}); restore it, or move it away.") from error
        new = [key for key in found if find(connection, key.prefix) is None]
        for key in new:
            add(connection, key)
        if new:
            fields = {"prefixes": [key.prefix for key in new]}
            audit.note(connection, "take_over", by="llmops", target="keys", fields=fields)
    with contextlib.suppress(OSError):  # gone already, or a disk that is only read
        file.rename(file.with_name(file.name + DONE))


def _key(row: sa.Row[Any]) -> Key:
    return Key(**row._mapping)
