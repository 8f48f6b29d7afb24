"""Classification of library errors that may be gone at the next try.

Stages convert foreseeable errors themselves. Errors straight from a library are classified here: a server that restarts
or is busy, a broken connection, a full disk.
"""

import errno
import socket
import sqlite3
import sys
from collections.abc import Iterator
from typing import Any
from urllib.error import HTTPError

from llmops.frame.errors import DiskFullError, LlmopsError, TransientError, describe_error, is_busy

_DISK_FULL_CODES = {errno.ENOSPC, errno.EDQUOT}
#: torch, safetensors, Arrow, SQLite and Spark raise classes of their own; only the text names the reason
_DISK_FULL_PHRASES = ("no space left on device", "disk quota exceeded", "database or disk is full")
_UNREACHABLE_CODES = {errno.EHOSTUNREACH, errno.EHOSTDOWN, errno.ENETUNREACH, errno.ENETDOWN}
_SQLITE_BUSY = ("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_IOERR")


def convert_to_transient(error: BaseException) -> TransientError | None:
    """Return `error` as a `TransientError` if it, or a cause, may be gone at the next try; else None.

    Other errors of ours are never converted.
    """
    if isinstance(error, TransientError):
        return error
    message = f"{type(error).__name__}: {describe_error(error)}"
    for cause in _walk_causes(error):
        if isinstance(cause, LlmopsError) and not isinstance(cause, TransientError):
            return None
        if isinstance(cause, DiskFullError) or is_disk_full(cause):
            return DiskFullError(f"A disk is full. {message}. Make room and run it again; what is finished is kept.")
        if (
            isinstance(cause, TransientError)
            or is_connection_broken(cause)
            or is_server_down(cause)
            or is_redis_down(cause)
            or is_database_down(cause)
        ):
            return TransientError(f"{message}. Run it again when the server answers; what is finished is kept.")
    return None


def is_disk_full(error: BaseException) -> bool:
    """Return True if a disk is full."""
    if isinstance(error, OSError) and error.errno in _DISK_FULL_CODES:
        return True
    if isinstance(error, ValueError | TypeError | LookupError):
        return False  # its text may quote user data
    text = describe_error(error).lower()
    return any(words in text for words in _DISK_FULL_PHRASES)


def is_connection_broken(error: BaseException) -> bool:
    """Return True if a connection broke, timed out or found no route. The Hub client's offline mode does not count."""
    if isinstance(error, ConnectionError | TimeoutError | socket.gaierror):
        return type(error).__name__ != "OfflineModeIsEnabled"
    return isinstance(error, OSError) and error.errno in _UNREACHABLE_CODES


def is_server_down(error: BaseException) -> bool:
    """Return True if an HTTP server could not be reached, or answered that it is busy or broken."""
    status = error.code if isinstance(error, HTTPError) else None
    status = getattr(getattr(error, "response", None), "status_code", status)
    for library in ("httpx", "httpx2"):  # the Hub's client uses httpx2
        ours = _get_classes(library, "UnsupportedProtocol", "LocalProtocolError")  # the request is wrong
        if isinstance(error, _get_classes(library, "TransportError")) and not isinstance(error, ours):
            return True
    return isinstance(status, int) and is_busy(status)


def is_redis_down(error: BaseException) -> bool:
    """Return True if Redis does not answer or is starting. A refused password does not count."""
    refused = _get_classes("redis.exceptions", "AuthenticationError", "AuthorizationError")
    down = _get_classes("redis.exceptions", "ConnectionError", "TimeoutError", "ClusterDownError", "TryAgainError")
    return isinstance(error, down) and not isinstance(error, refused)


def is_database_down(error: BaseException) -> bool:
    """Return True if a database does not answer or is locked, by the error of its driver or of SQLAlchemy.

    A wrong password counts, too, because drivers distinguish it only in their texts. For SQLite the error's name
    decides, because a missing table is an operational error, too.
    """
    if isinstance(error, sqlite3.OperationalError):
        return str(getattr(error, "sqlite_errorname", "")).startswith(_SQLITE_BUSY)
    if isinstance(error, _get_classes("sqlalchemy.exc", "TimeoutError")):  # the connection pool is exhausted
        return True
    if isinstance(error, _get_classes("sqlalchemy.exc", "DBAPIError")):
        reason: Any = error
        if isinstance(reason.orig, sqlite3.Error):
            return is_database_down(reason.orig)
        down = _get_classes("sqlalchemy.exc", "OperationalError", "InterfaceError")
        return bool(reason.connection_invalidated) or isinstance(error, down)
    return isinstance(
        error, (*_get_classes("psycopg", "OperationalError"), *_get_classes("psycopg2", "OperationalError"))
    )


def _get_classes(module: str, *names: str) -> tuple[type[BaseException], ...]:
    """Return these classes of a library; empty if it is not imported, because no error can then come from it."""
    library = sys.modules.get(module)
    return tuple(getattr(library, name) for name in names) if library else ()


def _walk_causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    next_one: BaseException | None = error
    while next_one is not None and id(next_one) not in seen:
        seen.add(id(next_one))
        yield next_one
        next_one = next_one.__cause__ or (None if next_one.__suppress_context__ else next_one.__context__)
