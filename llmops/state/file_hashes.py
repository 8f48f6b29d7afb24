"""SHA-256 of files that rarely change, each hashed once: the database remembers them.

A file is taken to be as it was if its size, times and inode are. Nobody can set the time of the last change of these
(`ctime`), so also a file whose time of writing was put back is hashed anew. A file that was written just now may be
written again within the same tick of the clock, so its hash is not remembered yet.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from llmops.artifacts import file_sha256
from llmops.errors import StateError
from llmops.records import content_id
from llmops.state.database import database_at
from llmops.state.tables import file_hashes

#: A file that was written so few nanoseconds ago may be written again without a change of its times.
_FRESH_NS = 2 * 10**9

Known = dict[str, tuple[str, str]]  #: hash of a path → the file's state, and its SHA-256
_unwritten: dict[str, Known] = {}  #: what a database that is not there, or cannot be written, would remember


@contextmanager
def remembered(database: str, hashed: Callable[[Path], str] | None = None) -> Iterator[Callable[[Path], str]]:
    """Give a function from a file to the SHA-256 of its content, in hex; it raises an OSError for what it cannot read.

    Args:
        database: the URL of the one that remembers; it does not learn the files' names. None is made for this.
        hashed: what hashes a file that is not remembered.
    """
    known, fresh = _known(database), Known()

    def sha256(file: Path) -> str:
        name, state, begun = content_id(str(file.absolute())), _state(file), time.time_ns()
        before, digest = fresh.get(name) or known.get(name) or ("", "")
        if before != _words(state):
            digest = (hashed or file_sha256)(file)
            if _state(file) == state and begun - max(state[:2]) > _FRESH_NS:
                fresh[name] = (_words(state), digest)
        return digest

    yield sha256
    if fresh:
        _keep(database, fresh)


def forget(database: str) -> None:
    """Hash every file anew from now on."""
    _unwritten.pop(database, None)
    if database and not database_at(database).absent:
        with database_at(database).change() as connection:
            connection.execute(sa.delete(file_hashes))


def _known(database: str) -> Known:
    found = _unwritten.get(database, {})
    if not database or database_at(database).absent:
        return found
    with database_at(database).read() as connection:
        return {row.file: (row.state, row.sha256) for row in connection.execute(sa.select(file_hashes))} | found


def _keep(database: str, fresh: Known) -> None:
    rows = [{"file": file, "state": state, "sha256": digest} for file, (state, digest) in fresh.items()]
    try:
        if database and not database_at(database).absent:
            with database_at(database).change() as connection:
                connection.execute(
                    sa.delete(file_hashes).where(file_hashes.c.file == sa.bindparam("key")),
                    [{"key": row["file"]} for row in rows],
                )
                connection.execute(sa.insert(file_hashes), rows)
            for file in fresh:
                _unwritten.get(database, {}).pop(file, None)
            return
    except (StateError, DBAPIError):  # whoever may only read the database can ask for the state of the home, too
        pass
    _unwritten.setdefault(database, {}).update(fresh)


def _state(file: Path) -> tuple[int, ...]:
    stat = file.stat()
    return stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size, stat.st_ino


def _words(state: tuple[int, ...]) -> str:
    return " ".join(map(str, state))
