"""Which errors may be gone at the next try: those of libraries as they really are, and ours."""

import errno
import socket
import sqlite3
from contextlib import closing
from pathlib import Path

import httpx
import httpx2
import psycopg
import pytest
import redis
import sqlalchemy as sa
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

from llmops.frame.errors import ConfigError, DiskFullError, SourceUnavailableError, TransientError
from llmops.frame.transient import convert_to_transient


def make_hub_error(status: int) -> HfHubHTTPError:
    request = httpx.Request("GET", "https://hub.test/api/models/x")
    return HfHubHTTPError("the Hub says no", response=httpx.Response(status, request=request))


def raise_from(outer: Exception, cause: Exception) -> Exception:
    outer.__cause__ = cause
    return outer


def catch_database_error(url: str, statement: str = "SELECT 1 FROM missing") -> Exception:
    with pytest.raises(sa.exc.SQLAlchemyError) as caught, sa.create_engine(url).connect() as connection:
        connection.execute(sa.text(statement))
    return caught.value


def catch_driver_error() -> Exception:
    with pytest.raises(psycopg.OperationalError) as caught:
        psycopg.connect("postgresql://nobody@127.0.0.1:1/none")
    return caught.value


class Speechless(Exception):
    """As py4j's error of the JVM, once that is gone."""

    def __str__(self) -> str:
        raise ConnectionRefusedError("no JVM")


PASSING = {
    "cannot tell its text": raise_from(Speechless(), ConnectionResetError("reset by peer")),
    "Hub 429": make_hub_error(429),
    "time out of the Hub's client": httpx2.ConnectTimeout("no answer"),
    "wrapped": raise_from(RuntimeError("the loader failed"), make_hub_error(500)),
    "server of a database": catch_database_error("postgresql+psycopg://nobody@127.0.0.1:1/none"),
    "server of a database, by its driver": catch_driver_error(),
    "connections of a pool": sa.exc.TimeoutError("QueuePool limit of size 5 overflow 10 reached"),
    "connection that the server ended": sa.exc.DBAPIError(
        "SELECT 1", {}, Exception("gone"), connection_invalidated=True
    ),
    "name server": socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"),
    "no way to the host": OSError(errno.EHOSTUNREACH, "No route to host"),
    "no network": OSError(errno.ENETUNREACH, "Network is unreachable"),
    "Redis, starting": redis.exceptions.BusyLoadingError("Redis is loading the dataset in memory"),
    "ours, wrapped": raise_from(RuntimeError("a worker failed"), SourceUnavailableError("the shop is away")),
}


def test_what_passes_by_itself_is_named_and_says_what_to_do() -> None:
    for name, error in PASSING.items():
        named = convert_to_transient(error)
        assert isinstance(named, TransientError) and not isinstance(named, DiskFullError), name
        assert type(error).__name__ in str(named) and "Run it again" in str(named), name


FULL = {
    "Python": OSError(errno.ENOSPC, "No space left on device", "/data/x"),
    "quota": OSError(errno.EDQUOT, "Disk quota exceeded"),
    "safetensors": RuntimeError("I/O error: No space left on device (os error 28)"),
    "SQLite": sqlite3.OperationalError("database or disk is full"),
    "wrapped": raise_from(RuntimeError("cannot write"), OSError(errno.ENOSPC, "No space left on device")),
}


def test_a_full_disk_says_so() -> None:
    for name, error in FULL.items():
        assert isinstance(convert_to_transient(error), DiskFullError), name
        assert "disk is full" in str(convert_to_transient(error)) and "Make room" in str(convert_to_transient(error)), (
            name
        )


STAYING: dict[str, Exception] = {
    "ours": ConfigError("train.sed is unknown"),
    "Hub 404": make_hub_error(404),
    "Hub, told to stay offline": OfflineModeIsEnabled("HF_HUB_OFFLINE is set"),
    "a defect": TypeError("None"),
    "no table": catch_database_error("sqlite://"),
    "a row that talks of a full disk": ValueError("row 3: 'No space left on device' is no answer"),
    "no address of the web": httpx.UnsupportedProtocol("Request URL is missing an 'http://' or 'https://' protocol."),
    "Redis, wrong password": redis.exceptions.AuthenticationError("invalid username-password pair"),
    "ours, wrapped": raise_from(RuntimeError("a worker failed"), ConfigError("train.sed is unknown")),
}


def test_what_is_the_same_at_every_try_stays_what_it_is() -> None:
    assert [name for name, error in STAYING.items() if convert_to_transient(error) is not None] == []


def test_a_locked_database_passes(tmp_path: Path) -> None:
    file = tmp_path / "x.db"
    with closing(sqlite3.connect(file, isolation_level=None)) as holder:
        holder.execute("CREATE TABLE t (x)")
        holder.execute("BEGIN EXCLUSIVE")
        error = catch_database_error(f"sqlite:///{file}?timeout=0.1", "SELECT * FROM t")
        with pytest.raises(sqlite3.OperationalError) as raw, closing(sqlite3.connect(file, timeout=0.1)) as connection:
            connection.execute("SELECT * FROM t")
    assert isinstance(convert_to_transient(error), TransientError) and isinstance(
        convert_to_transient(raw.value), TransientError
    )
