"""The database of all decisions: SQLite on one machine, PostgreSQL for several, with the same code.

    database = database_of(config)
    with database.change() as connection:   # one transaction; other writers wait
        connection.execute(…)

A change is atomic, even if its process is killed. The first process to open a database creates its tables, or migrates
those of an earlier release; other processes wait meanwhile.
"""

import json
import math
import os
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext
from functools import lru_cache
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, IntegrityError, NoSuchModuleError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from llmops.config import Config
from llmops.frame.artifacts import hold_lock
from llmops.frame.errors import ConfigError, StateError, StateReadOnly, StateUnavailable
from llmops.frame.variables import fill_variables
from llmops.state.tables import REVISION

HEAD = "1003"  #: the newest revision in migrations/versions/, which this code needs
MIGRATIONS = Path(__file__).parent / "migrations"
BUSY_S = 30  #: seconds a writer waits for another one
CONNECT_S = 5  #: seconds for connecting to a server
_LOCK = 0x6C6C6D6F7073  #: "llmops": the advisory lock of writers on PostgreSQL
_LOCK_TIMEOUT = "55P03"  #: PostgreSQL's code of a lock timeout
_READ_ONLY = "25006"  #: PostgreSQL's code of a change on a server that only follows another
_SQLITE = "sqlite:///"
_PREPARING = threading.Lock()  #: Alembic uses global names, so only one thread may run it


class Database:
    """The database behind a URL. It is opened at first use.

    Raises:
        ConfigError: if a variable in the URL is not set, or it is a URL of neither SQLite nor PostgreSQL.
    """

    def __init__(self, url: str, environ: Mapping[str, str] = os.environ) -> None:
        self.url = url
        self._file = Path(url.removeprefix(_SQLITE)).absolute() if url.startswith(_SQLITE) else None
        self._engine = _make_sqlite_engine(self._file) if self._file else _make_postgresql_engine(url, environ)
        self._pid = os.getpid()
        self._ready: int | None = None  #: inode of the file whose tables are up to date
        self._inherited_pool: sa.Pool | None = None  #: connections of the process that forked us, which stay open
        #: name of the database in errors, without password
        self.name = str(self._file or self._engine.url.render_as_string(hide_password=True))

    @contextmanager
    def change(self) -> Iterator[sa.Connection]:
        """Open a writing transaction, after other writers. It is rolled back if the block raises.

        Raises:
            StateReadOnly: if the database can only be read here.
            StateUnavailable: if it cannot be reached, or is locked for too long.
            StateError: if it is damaged, newer than this code, or of another encoding than UTF-8.
        """
        with self._open(writing=True) as connection, connection.begin():
            if self._file is None:
                _lock_writers(connection)
            connection.exec_driver_sql(f"DELETE FROM {REVISION} WHERE 1 = 0")  # fails at once if nothing can be written
            yield connection

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """Open a connection for reading, which waits for nobody. Each statement sees one consistent state.

        It raises the errors of `change`.
        """
        with self._open(writing=False) as connection:
            yield connection

    @property
    def exists(self) -> bool:
        """Return False if the database is a file that does not exist yet. The file is not created."""
        return self._file is None or self._file.exists()

    def vacuum(self) -> None:
        """Rewrite the tables, so that no deleted data remains in them. It raises the errors of `change`."""
        with self.read() as connection:
            connection.exec_driver_sql("VACUUM")
            if self._file:
                connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")

    def describe(self) -> str:
        """Describe the database in words, without creating or changing it. It raises the errors of `change`."""
        if not self.exists:
            return f"{self.name} is made when it is first used"
        try:
            with self._engine.connect() as connection:
                known = _read_revision(connection)
        except DBAPIError as error:
            raise self._convert_error(error) from error
        self._refuse_newer(known)
        pending = "" if known == HEAD else f"; {HEAD} is made when it is used"
        return f"{self.name}, revision {known or 'none'}{pending}"

    @contextmanager
    def _open(self, writing: bool) -> Iterator[sa.Connection]:
        if self._pid != os.getpid():
            self._inherited_pool = self._engine.pool
            self._engine.dispose(close=False)
            self._pid = os.getpid()
        try:
            if self._ready is None or self._ready != self._read_inode():
                with _PREPARING:
                    self._prepare()
            with self._engine.connect() as connection:
                mode = {"writing": True} if writing else {} if self._file else {"isolation_level": "AUTOCOMMIT"}
                yield connection.execution_options(**mode)
        except (IntegrityError, DataError, ProgrammingError):
            raise  # the caller's mistake
        except (DBAPIError, PoolTimeout) as error:
            raise self._convert_error(error, writing) from error

    def _read_inode(self) -> int:
        """Return the inode of the file, which changes if the file is replaced; 0 if there is no file."""
        return self._file.stat().st_ino if self._file and self._file.exists() else 0

    def _prepare(self) -> None:
        self._engine.dispose()  # connections to a replaced file
        if not self._is_current():
            with (
                _create(self._file) if self._file else nullcontext(),
                self._engine.connect().execution_options(writing=True) as connection,
                connection.begin(),
            ):
                if self._file is None:
                    _lock_writers(connection)
                self._migrate(connection)
        self._ready = self._read_inode()

    def _is_current(self) -> bool:
        if not self.exists:
            return False
        with self._engine.connect() as connection:
            return _read_revision(connection) == HEAD

    def _migrate(self, connection: sa.Connection) -> None:
        known = _read_revision(connection)
        if known == HEAD:
            return
        self._refuse_newer(known)
        from alembic import command
        from alembic.config import Config as Alembic

        settings = Alembic()
        settings.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
        settings.attributes["connection"] = connection
        command.upgrade(settings, "head")

    def _refuse_newer(self, known: str) -> None:
        if known and known < "1002":
            raise StateError(
                f"The database {self.name} was made before the first release (revision {known}); begin with a new home."
            )
        if known > HEAD:  # numbers of four digits
            raise StateError(
                f"The database {self.name} was made by a newer llmops (revision {known}; this one knows {HEAD}); "
                "install that version, or go back to a copy of the database from before."
            )

    def _convert_error(self, error: DBAPIError | PoolTimeout, writing: bool = False) -> StateError:
        cause = getattr(error, "orig", error)
        reason = " ".join(str(cause).split())
        if password := self._engine.url.password:
            reason = reason.replace(str(password), "***")
        code = getattr(cause, "sqlite_errorcode", 0) & 0xFF
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            return StateError(f"The database {self.name} is damaged ({reason}); put a copy of it in its place.")
        sqlstate = getattr(cause, "sqlstate", "")
        if writing and (code == sqlite3.SQLITE_READONLY or sqlstate == _READ_ONLY):
            return StateReadOnly(
                "The database can only be read here, so nothing can be changed: let `state.url` name the PostgreSQL "
                "server that all processes share, or a file in a folder that may be written."
            )
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED) or sqlstate == _LOCK_TIMEOUT:
            return StateUnavailable(f"The database {self.name} has been busy for {BUSY_S} s; try again.")
        look = (
            "its folder can be written and its disk has room" if self._file else "its server runs and the password fits"
        )
        reason = f"{self.name} cannot be used ({reason})"
        return StateUnavailable(f"The database {reason}; see whether {look}. `state.url` says where it is.")


def database_of(config: Config) -> Database:
    """Return the database of a configuration: one object, with one connection pool, per URL and process."""
    return database_at(config.database)


@lru_cache(maxsize=16)
def database_at(url: str) -> Database:
    """Return the database behind a URL. See `Database`."""
    return Database(url)


def _make_sqlite_engine(file: Path) -> sa.Engine:
    url = sa.URL.create("sqlite", database=str(file))
    engine = sa.create_engine(url, json_serializer=_format_json, max_overflow=-1, connect_args={"timeout": BUSY_S})

    @sa.event.listens_for(engine, "connect")
    def _connected(connection: sqlite3.Connection, _: object) -> None:
        connection.isolation_level = None  # we send BEGIN: Python would send it only after the first read
        connection.execute("PRAGMA synchronous = FULL")  # NORMAL may lose the last commits in a power cut

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        if connection.get_execution_options().get("writing"):
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def _make_postgresql_engine(url: str, environ: Mapping[str, str]) -> sa.Engine:
    def read_variable(name: str) -> str:
        if name not in environ:
            raise ConfigError(f"state.url needs ${{{name}}}; set {name} in the environment.")
        return environ[name]

    try:
        parsed = sa.make_url(fill_variables(url, read_variable))
        if parsed.get_backend_name() not in ("postgresql", "postgres"):
            raise ArgumentError
        parsed = parsed.set(drivername="postgresql+psycopg")
        timeout = {"connect_timeout": CONNECT_S}
        engine = sa.create_engine(parsed, json_serializer=_format_json, pool_pre_ping=True, connect_args=timeout)
    except (ArgumentError, NoSuchModuleError, ValueError):
        raise ConfigError(
            "state.url is neither sqlite:///<file> nor a URL such as postgresql://llmops:${STATE_PASSWORD}@host/llmops."
        ) from None

    @sa.event.listens_for(engine, "connect", insert=True)  # before SQLAlchemy reads texts
    def _connected(connection: Any, _: object) -> None:
        if (encoding := connection.info.parameter_status("server_encoding")) != "UTF8":
            connection.close()
            remedy = f"CREATE DATABASE {parsed.database}_utf8 ENCODING 'UTF8' TEMPLATE template0"
            raise StateError(
                f"{engine.url!r} is in {encoding}, not in UTF8: let `state.url` name one made by `{remedy}`."
            )

    return engine


def _lock_writers(connection: sa.Connection) -> None:
    """Hold PostgreSQL's lock of writers until the transaction ends. PostgreSQL ends one that hangs."""
    connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{BUSY_S}s'")
    connection.exec_driver_sql(f"SET LOCAL idle_in_transaction_session_timeout = '{2 * BUSY_S}s'")
    connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))


@contextmanager
def _create(file: Path) -> Iterator[None]:
    """Lock the file, and create it if needed: readable only by its owner, as it has hashes of keys, and in WAL mode.

    With WAL, readers continue while one process writes.
    """
    try:
        with hold_lock(file):
            if not file.exists():
                os.close(os.open(file, os.O_RDWR | os.O_CREAT, 0o600))
            with closing(sqlite3.connect(file, timeout=BUSY_S)) as connection:
                connection.execute("PRAGMA journal_mode = WAL")
            yield
    except sqlite3.Error as error:
        raise sa.exc.DBAPIError.instance("PRAGMA journal_mode", None, error, sqlite3.Error) from error
    except OSError as error:
        raise StateUnavailable(f"The database {file} cannot be made ({error.strerror}); see `state.url`.") from error


def _read_revision(connection: sa.Connection) -> str:
    if not sa.inspect(connection).has_table(REVISION):
        return ""
    return str(connection.scalar(sa.text(f"SELECT version_num FROM {REVISION}")) or "")


def _format_json(value: Any) -> str:
    """Return JSON that PostgreSQL accepts: NaN and infinities become null."""
    return json.dumps(_replace_non_finite(value), ensure_ascii=False, allow_nan=False, default=str)


def _replace_non_finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): _replace_non_finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_replace_non_finite(item) for item in value]
    return value
