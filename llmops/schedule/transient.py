"""Which of the errors that libraries raise may be gone at the next try, in our words.

A stage names what it can foresee by itself. What comes as it is from a library, with no word of ours, is looked at
here: a server that restarts or is too busy, a connection that breaks, a disk that is full.
"""

from __future__ import annotations

import errno
import socket
import sqlite3
import sys
from collections.abc import Iterator
from typing import Any
from urllib.error import HTTPError

from llmops.errors import DiskFullError, LlmopsError, TransientError, is_busy, said

_FULL = {errno.ENOSPC, errno.EDQUOT}
#: torch, safetensors, Arrow, SQLite and Spark have classes of their own for it, and the reason in their text only
_FULL_WORDS = ("no space left on device", "disk quota exceeded", "database or disk is full")
_UNREACHABLE = {errno.EHOSTUNREACH, errno.EHOSTDOWN, errno.ENETUNREACH, errno.ENETDOWN}
_SQLITE_BUSY = ("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_IOERR")


def transient(error: BaseException) -> TransientError | None:
    """`error` as a `TransientError`, if it or what caused it may be gone at the next try; None otherwise.

    An error in our own words that is not transient says so itself and stays what it is.
    """
    if isinstance(error, TransientError):
        return error
    words = f"{type(error).__name__}: {said(error)}"
    for cause in _causes(error):
        if isinstance(cause, LlmopsError) and not isinstance(cause, TransientError):
            return None
        if isinstance(cause, DiskFullError) or is_full(cause):
            return DiskFullError(f"A disk is full. {words}. Make room and run it again; what is finished is kept.")
        if (
            isinstance(cause, TransientError)
            or is_broken_off(cause)
            or is_unanswered(cause)
            or is_redis_down(cause)
            or is_database_down(cause)
        ):
            return TransientError(f"{words}. Run it again when what it asks answers; what is finished is kept.")
    return None


def is_full(error: BaseException) -> bool:
    """Whether there is no room on a disk."""
    if isinstance(error, OSError) and error.errno in _FULL:
        return True
    if isinstance(error, ValueError | TypeError | LookupError):
        return False  # it may quote a text that has these words
    text = said(error).lower()
    return any(words in text for words in _FULL_WORDS)


def is_broken_off(error: BaseException) -> bool:
    """Whether a connection broke, took too long or found no way; not that the Hub's client was told to stay offline."""
    if isinstance(error, ConnectionError | TimeoutError | socket.gaierror):
        return type(error).__name__ != "OfflineModeIsEnabled"
    return isinstance(error, OSError) and error.errno in _UNREACHABLE


def is_unanswered(error: BaseException) -> bool:
    """Whether a server could not be reached over HTTP, or answered that it is busy or broken."""
    status = error.code if isinstance(error, HTTPError) else None
    status = getattr(getattr(error, "response", None), "status_code", status)
    for library in ("httpx", "httpx2"):  # the Hub's client has the second
        ours = _loaded(library, "UnsupportedProtocol", "LocalProtocolError")  # the request is wrong, not the answer
        if isinstance(error, _loaded(library, "TransportError")) and not isinstance(error, ours):
            return True
    return isinstance(status, int) and is_busy(status)


def is_redis_down(error: BaseException) -> bool:
    """Whether Redis does not answer or is starting; not that it refuses the password."""
    refused = _loaded("redis.exceptions", "AuthenticationError", "AuthorizationError")
    down = _loaded("redis.exceptions", "ConnectionError", "TimeoutError", "ClusterDownError", "TryAgainError")
    return isinstance(error, down) and not isinstance(error, refused)


def is_database_down(error: BaseException) -> bool:
    """Whether a database does not answer or is locked, as its driver or SQLAlchemy tells it.

    Of a server this includes a wrong password: drivers tell it apart in their words only. SQLite calls a missing table
    an operational error, too.
    """
    if isinstance(error, sqlite3.OperationalError):
        return str(getattr(error, "sqlite_errorname", "")).startswith(_SQLITE_BUSY)
    if isinstance(error, _loaded("sqlalchemy.exc", "TimeoutError")):  # no connection of the pool was free
        return True
    if isinstance(error, _loaded("sqlalchemy.exc", "DBAPIError")):
        reason: Any = error
        if isinstance(reason.orig, sqlite3.Error):
            return is_database_down(reason.orig)
        down = _loaded("sqlalchemy.exc", "OperationalError", "InterfaceError")
        return bool(reason.connection_invalidated) or isinstance(error, down)
    return isinstance(error, (*_loaded("psycopg", "OperationalError"), *_loaded("psycopg2", "OperationalError")))


def _loaded(module: str, *names: str) -> tuple[type[BaseException], ...]:
    """These classes of a library; none if nobody has imported it: then no error can be of it."""
    library = sys.modules.get(module)
    return tuple(getattr(library, name) for name in names) if library else ()


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error, what it was raised from, and so on."""
    seen: set[int] = set()
    next_one: BaseException | None = error
    while next_one is not None and id(next_one) not in seen:
        seen.add(id(next_one))
        yield next_one
        next_one = next_one.__cause__ or (None if next_one.__suppress_context__ else next_one.__context__)
