"""Keys as rows of the database."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import sqlalchemy as sa

from llmops.access.roles import Key, NoSuchKey
from llmops.state.tables import keys

_FIND = sa.select(keys).where(keys.c.prefix == sa.bindparam("prefix"))  #: built once: every request looks up a key


def list_all(connection: sa.Connection) -> Iterator[Key]:
    """Return all keys, oldest first."""
    return map(_make_key, connection.execute(sa.select(keys).order_by(keys.c.created, keys.c.prefix)).all())


def find(connection: sa.Connection, prefix: str) -> Key | None:
    """Return the key with this prefix, if there is one."""
    row = connection.execute(_FIND, {"prefix": prefix}).first()
    return _make_key(row) if row else None


def get(connection: sa.Connection, prefix: str) -> Key:
    """Return the key with this prefix.

    Raises:
        NoSuchKey: if there is none.
    """
    key = find(connection, prefix)
    if key is None:
        raise NoSuchKey(f"No key has the prefix {prefix!r}; `llmops keys list` shows them.")
    return key


def insert(connection: sa.Connection, key: Key) -> None:
    """Add a key."""
    connection.execute(sa.insert(keys).values(asdict(key)))


def update(connection: sa.Connection, key: Key) -> Key:
    """Replace the key with this prefix, and return it."""
    connection.execute(sa.update(keys).where(keys.c.prefix == key.prefix).values(asdict(key)))
    return key


def _make_key(row: sa.Row[Any]) -> Key:
    return Key(**row._mapping)
