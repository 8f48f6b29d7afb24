"""The one database: whole or not at all, for many processes, on SQLite and on a PostgreSQL that the tests start."""

import json
import multiprocessing
import os
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from llmops import cli
from llmops.access.rows import list_all
from llmops.config import load
from llmops.frame.errors import ConfigError, StateError, StateReadOnly, StateUnavailable
from llmops.state import database as module
from llmops.state.database import HEAD, Database, database_of
from llmops.state.tables import REVISION, aliases, audit, changes, metadata

spawn = multiprocessing.get_context("spawn")


def note(connection: sa.Connection, action: str) -> None:
    row = {"time": "2026-01-31", "by": "t", "target": "", "outcome": "success", "fields": {}}
    connection.execute(sa.insert(audit).values(action=action, **row))


def actions(url: str, environ: Mapping[str, str] = os.environ) -> list[str]:
    with Database(url, environ).read() as connection:
        return list(connection.scalars(sa.select(audit.c.action).order_by(audit.c.id)))


def test_the_first_to_open_it_makes_the_tables_that_the_code_knows(database_url: str) -> None:
    for database in (Database(database_url), Database(database_url)):  # and the second finds them
        with database.read() as connection:
            names = set(sa.inspect(connection).get_table_names()) - {REVISION, "sqlite_sequence"}
            assert names == set(metadata.tables)
            context = MigrationContext.configure(connection, opts={"version_table": REVISION, "compare_type": True})
            assert compare_metadata(context, metadata) == []
            assert context.get_current_revision() == HEAD


def test_migration_keeps_the_rows(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Database(database_url).change() as connection:
        note(connection, "before")
    later = tmp_path / "migrations"
    shutil.copytree(module.MIGRATIONS, later)
    following = str(int(HEAD) + 1)
    (later / "versions" / "next.py").write_text(
        f"import sqlalchemy as sa\nfrom alembic import op\n\nrevision, down_revision = '{following}', '{HEAD}'\n\n\n"
        "def upgrade():\n    op.add_column('audit', sa.Column('place', sa.Text))\n"
    )
    monkeypatch.setattr(module, "MIGRATIONS", later)
    monkeypatch.setattr(module, "HEAD", following)
    database = Database(database_url)
    with database.read() as connection:
        assert connection.exec_driver_sql("SELECT action, place FROM audit").all() == [("before", None)]
    monkeypatch.undo()
    for revision, refused in ((following, f"newer llmops.*{following}"), ("1001", "before the first release")):
        with database.change() as connection:
            connection.exec_driver_sql(f"UPDATE {REVISION} SET version_num = '{revision}'")
        with pytest.raises(StateError, match=refused), Database(database_url).read():
            pass


def test_keys_of_the_first_revision_keep_on_without_a_budget(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = tmp_path / "migrations"
    shutil.copytree(module.MIGRATIONS, first)
    (first / "versions" / "1003_usage.py").unlink()
    monkeypatch.setattr(module, "MIGRATIONS", first)
    monkeypatch.setattr(module, "HEAD", "1002")
    with Database(database_url).change() as connection:
        connection.exec_driver_sql(
            "INSERT INTO keys (prefix, role, owner, sha256, created, expires, revoked, old_sha256, old_until) "
            "VALUES ('ab12cd34', 'user', 'shop', 'x', '2026-01-01', '', '', '', '')"
        )
    monkeypatch.undo()
    with Database(database_url).read() as connection:
        (key,) = list_all(connection)
    assert (key.prefix, key.owner, key.tokens_per_month) == ("ab12cd34", "shop", None)


def test_threads_that_open_new_databases_at_once_are_no_harm_to_each_other(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda number: actions(f"sqlite:///{tmp_path / str(number % 2)}.db"), range(8)))
    assert found == [[]] * 8


def test_only_its_owner_reads_the_file(tmp_path: Path) -> None:
    with Database(f"sqlite:///{tmp_path / 'state.db'}").change() as connection:
        note(connection, "a")
        files = [path for path in tmp_path.iterdir() if path.name.startswith("state.db")]
        assert len(files) == 3 and {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


def test_a_change_that_fails_leaves_nothing_and_a_reader_waits_for_none(database_url: str) -> None:
    database = Database(database_url)
    with pytest.raises(ZeroDivisionError), database.change() as connection:
        note(connection, "lost")
        1 / 0  # noqa: B018
    with database.change() as connection:
        note(connection, "kept")
        assert actions(database_url) == []  # a reader waits for no writer
    assert actions(database_url) == ["kept"]


def test_values_that_json_has_not_are_kept_as_null(database_url: str) -> None:
    row = {"model": "m", "time": "t", "by": "b", "why": "w", "aliases": {}}
    with Database(database_url).change() as connection:
        connection.execute(sa.insert(changes).values(**row, numbers={"p": float("nan"), "q": [float("inf"), 1]}))
        assert connection.scalar(sa.select(changes.c.numbers)) == {"p": None, "q": [None, 1]}


def count_up(url: str, times: int) -> None:
    """Read a number, wait a moment, write the next: without one order of all writers, some would be lost."""
    database = Database(url)
    for _ in range(times):
        with database.change() as connection:
            number = connection.scalar(sa.select(aliases.c.version).where(aliases.c.model == "m"))
            time.sleep(0.001)
            if number is None:
                connection.execute(sa.insert(aliases).values(model="m", alias="a", version="1"))
            else:
                connection.execute(sa.update(aliases).values(version=str(int(number) + 1)))
            note(connection, "count")


def test_processes_that_open_it_at_once_and_write_lose_nothing(database_url: str) -> None:
    workers = [spawn.Process(target=count_up, args=(database_url, 15)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(300)
    assert [worker.exitcode for worker in workers] == [0] * 3
    with Database(database_url).read() as connection:
        assert connection.scalar(sa.select(aliases.c.version)) == "45"
    assert len(actions(database_url)) == 45


DIE = """
import os, signal, sys
import sqlalchemy as sa
from llmops.state import database
from llmops.state.tables import audit

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

if sys.argv[2] == "making":
    from alembic import command
    upgrade = command.upgrade  # all tables are there after it, but not committed
    command.upgrade = lambda *args: (upgrade(*args), die())
with database.Database(sys.argv[1]).change() as connection:
    connection.execute(sa.insert(audit).values(time="", action="dead", by="", target="", outcome="", fields={}))
    die()
"""


@pytest.mark.parametrize("when", ["making", "writing"])
def test_killed_in_the_middle_it_is_as_it_was_before(database_url: str, when: str) -> None:
    if when == "writing":
        with Database(database_url).change() as connection:
            note(connection, "before")
    done = subprocess.run([sys.executable, "-c", DIE, database_url, when], capture_output=True, text=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr
    with Database(database_url).change() as connection:
        note(connection, "after")
    assert actions(database_url) == (["before", "after"] if when == "writing" else ["after"])


FORK = """
import os, sys
import sqlalchemy as sa
from llmops.state.database import Database
from llmops.state.tables import audit

database = Database(sys.argv[1])
with database.change() as connection:
    connection.execute(sa.insert(audit).values(time="", action="parent", by="", target="", outcome="", fields={}))
    if not (child := os.fork()):
        with database.read() as own:
            os._exit(own.scalar(sa.select(sa.func.count()).select_from(audit)))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0  # it sees nothing yet
"""


def test_a_fork_does_not_use_its_parents_connections(database_url: str) -> None:
    """In a process of its own, which has no other threads when it forks."""
    done = subprocess.run([sys.executable, "-c", FORK, database_url], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert actions(database_url) == ["parent"]


def test_another_file_in_its_place_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "state.db"
    database = Database(f"sqlite:///{file}")
    for action in ("first", "second"):
        with database.change() as connection:
            note(connection, action)
        assert actions(f"sqlite:///{file}") == [action]
        for path in tmp_path.glob("state.db*"):
            path.unlink()


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "state.db"
    database = Database(f"sqlite:///{file}")
    with database.change() as connection:
        for number in range(1000):
            note(connection, f"a{number}")
    with sqlite3.connect(file) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    data = bytearray(file.read_bytes())
    data[20 * 4096 :] = b"\x07" * (len(data) - 20 * 4096)  # within
    for damaged in (bytes(data), b"no database at all, though it is long enough to be one" * 100):
        file.write_bytes(damaged)
        with pytest.raises(StateError, match=f"{file} is damaged"):
            actions(f"sqlite:///{file}")


def test_a_writer_that_finds_it_busy_says_so(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with Database(database_url).change():
        monkeypatch.setattr(module, "BUSY_S", 0.2)
        other = Database(database_url)
        with pytest.raises(StateUnavailable, match="busy"), other.change():
            pass
    with other.change() as connection:
        note(connection, "later")
    assert actions(database_url) == ["later"]


@pytest.mark.service
def test_a_server_that_can_only_be_read_is_named(
    postgresql: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = postgresql()
    with Database(url).change():
        pass
    monkeypatch.setenv("PGOPTIONS", "-c default_transaction_read_only=on")
    reading = Database(url)
    with reading.read():
        pass
    with pytest.raises(StateReadOnly, match="state.url"), reading.change():
        pytest.fail("a change that writes nothing, as on a refusal, may not begin")


@pytest.mark.service
def test_a_database_of_another_encoding_is_refused_with_its_remedy(postgresql: Callable[[], str]) -> None:
    url, password = postgresql(), os.environ["TEST_PG_PASSWORD"]
    with psycopg.connect(
        url.replace("${TEST_PG_PASSWORD}@", "").replace("llmops:", "llmops@"), password=password
    ) as it:
        it.autocommit = True
        it.execute("CREATE DATABASE bytes ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0")
    database = Database(f"{url.rpartition('/')[0]}/bytes")
    for ask in (database.describe, lambda: database.read().__enter__()):
        with pytest.raises(StateError, match="is in SQL_ASCII.*CREATE DATABASE bytes_utf8 ENCODING 'UTF8'"):
            ask()


@pytest.mark.parametrize("kind", ["nowhere", pytest.param("postgresql", marks=pytest.mark.service)])
def test_a_server_that_refuses_is_named_without_the_password(kind: str, request: pytest.FixtureRequest) -> None:
    """One that is not there, and one that knows another password."""
    url = "postgresql://ana:${TEST_PG_PASSWORD}@127.0.0.1:9/llmops"
    url = url if kind == "nowhere" else request.getfixturevalue("postgresql")()
    with pytest.raises(StateUnavailable, match=r"127\.0\.0\.1:\d") as error:
        actions(url, {"TEST_PG_PASSWORD": "wr@ng/pw"})
    assert "wr@ng" not in str(error.value) + repr(error.value.__cause__)


def test_the_configuration_names_it_and_refuses_another_url_when_it_is_loaded(tmp_path: Path) -> None:
    home = {"LLMOPS_HOME": str(tmp_path)}
    assert load(environ=home).database == f"sqlite:///{tmp_path}/state.db"
    assert database_of(load(environ=home)) is database_of(load(environ=home))
    url = "postgresql://llmops:${PW}@db/llmops"
    assert load(environ={**home, "LLMOPS_STATE__URL": url}).database == url
    with pytest.raises(ConfigError, match="set PW"):
        Database(url, {})
    for wrong in ("mysql://db/x", "sqlite:///", "state.db", "postgresql://a:secret@db/x"):
        with pytest.raises(ConfigError, match="state.url"):
            load(environ={**home, "LLMOPS_STATE__URL": wrong})


def test_the_doctor_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def says(url: str = "") -> tuple[bool, str]:
        words = ["doctor", "--json", "--set", f"home={tmp_path}", *(["--set", f"state.url={url}"] if url else [])]
        cli.main(words)
        (found,) = [c for c in json.loads(capsys.readouterr().out) if c["name"] == "database"]
        return found["ok"], found["detail"]

    assert says() == (True, f"{tmp_path}/state.db is made when it is first used")
    assert not (tmp_path / "state.db").exists()
    with Database(f"sqlite:///{tmp_path}/state.db").change():
        pass
    assert says() == (True, f"{tmp_path}/state.db, revision {HEAD}")
    (tmp_path / "other.db").write_text("{" * 5000)
    nowhere = "postgresql://llmops@127.0.0.1:9/llmops"
    for url, reason in ((f"sqlite:///{tmp_path}/other.db", "damaged"), (nowhere, "127.0.0.1:9/llmops cannot be used")):
        ok, detail = says(url)
        assert not ok and reason in detail
