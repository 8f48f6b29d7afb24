"""SHA-256 of files that rarely change. The database caches the hashes.

A cached hash is valid while the file's size, times and inode are the same. Nobody can set the time of the last status
change (`ctime`), so a file with a reset modification time is hashed again. The hash of a file written a moment ago is
not cached, because another write could follow within the same tick of the clock.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from llmops.frame.artifacts import compute_sha256
from llmops.frame.errors import StateError
from llmops.frame.records import make_content_id
from llmops.state.database import database_at
from llmops.state.tables import file_hashes

#: age in nanoseconds below which a file may be written again without a change of its times
_FRESH_NS = 2 * 10**9

Cache = dict[str, tuple[str, str]]  #: hash of a path → the file's state, and its SHA-256
_unwritten: dict[str, Cache] = {}  #: cache for databases that do not exist or cannot be written


@contextmanager
def cached_hashing(database: str, hash_file: Callable[[Path], str] | None = None) -> Iterator[Callable[[Path], str]]:
    """Open the cache; the block gets a function that returns the SHA-256 of a file's content, in hex.

    The function raises OSError if it cannot read the file. The database at the URL is not created for this, and stores
    no names of files. `hash_file` hashes a file that is not in the cache.
    """
    known, fresh = _read_cache(database), Cache()

    def sha256(file: Path) -> str:
        name, state, started_ns = make_content_id(str(file.absolute())), _read_state(file), time.time_ns()
        cached_state, digest = fresh.get(name) or known.get(name) or ("", "")
        if cached_state != _format_state(state):
            digest = (hash_file or compute_sha256)(file)
            if _read_state(file) == state and started_ns - max(state[:2]) > _FRESH_NS:
                fresh[name] = (_format_state(state), digest)
        return digest

    yield sha256
    if fresh:
        _write_cache(database, fresh)


def clear_cache(database: str) -> None:
    """Clear the cache."""
    _unwritten.pop(database, None)
    if database and database_at(database).exists:
        with database_at(database).change() as connection:
            connection.execute(sa.delete(file_hashes))


def _read_cache(database: str) -> Cache:
    found = _unwritten.get(database, {})
    if not database or not database_at(database).exists:
        return found
    with database_at(database).read() as connection:
        return {row.file: (row.state, row.sha256) for row in connection.execute(sa.select(file_hashes))} | found


def _write_cache(database: str, fresh: Cache) -> None:
    rows = [{"file": file, "state": state, "sha256": digest} for file, (state, digest) in fresh.items()]
    try:
        if database and database_at(database).exists:
            with database_at(database).change() as connection:
                connection.execute(
                    sa.delete(file_hashes).where(file_hashes.c.file == sa.bindparam("key")),
                    [{"key": row["file"]} for row in rows],
                )
                connection.execute(sa.insert(file_hashes), rows)
            for file in fresh:
                _unwritten.get(database, {}).pop(file, None)
            return
    except (StateError, DBAPIError):  # a user without write access may use the cache, too
        pass
    _unwritten.setdefault(database, {}).update(fresh)


def _read_state(file: Path) -> tuple[int, ...]:
    stat = file.stat()
    return stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size, stat.st_ino


def _format_state(state: tuple[int, ...]) -> str:
    return " ".join(map(str, state))
