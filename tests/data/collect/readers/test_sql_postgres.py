"""SQL, on a PostgreSQL server that the tests start."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest
import sqlalchemy as sa

from llmops.config import Source
from llmops.data.collect.readers import sql_rows
from llmops.data.collect.readers.origin import Origin
from llmops.errors import SourceError
from llmops.records import Document, Dropped

PASSWORD = "p@ss/word:1"
BIN = [*sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True), Path("/opt/homebrew/bin")]


def binary(name: str) -> str:
    found = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), *map(str, BIN)]))
    if found is None:
        pytest.skip(f"PostgreSQL's {name} is not on this machine")
    return found


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """The URL of a server of its own, with the variable PGPW in the password's place."""
    initdb, postgres = binary("initdb"), binary("postgres")
    user = "postgres" if os.geteuid() == 0 else None  # it refuses to run as root
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    try:
        (folder / "pw").write_text(PASSWORD)
        if user:
            for path in (folder, folder / "pw"):
                shutil.chown(path, user)
        create = [initdb, "-D", f"{folder}/data", "-U", "ana", f"--pwfile={folder}/pw", "-A", "scram-sha-256", "-N"]
        subprocess.run(create, user=user, cwd=folder, check=True, capture_output=True, timeout=60)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        options = ["-h", "127.0.0.1", "-p", str(port), "-k", str(folder), "-c", "timezone=Asia/Tokyo", "-F"]
        process = subprocess.Popen([postgres, "-D", f"{folder}/data", *options], user=user, stderr=subprocess.PIPE)
        try:
            for line in process.stderr or ():
                if b"ready to accept connections" in line:
                    break
            else:
                pytest.fail("PostgreSQL did not start")
            url = sa.make_url(f"postgresql+psycopg://ana@127.0.0.1:{port}/postgres").set(password=PASSWORD)
            with sa.create_engine(url, poolclass=sa.NullPool).begin() as connection:
                connection.exec_driver_sql(
                    "create sequence s;"
                    "create table o (id int primary key, at timestamptz, total numeric(8,2), more jsonb, tags text[]);"
                    "insert into o values (1, '2026-01-30 12:00+00', 9.50, '{\"who\": {\"name\": \"Ana\"}}', '{a,b}'),"
                    "(2, '2026-01-31 23:59:59+00', null, null, null), (3, '2026-02-01 00:00+00', 1, null, null),"
                    "(4, null, 1, null, null)"
                )
            yield f"postgresql://ana:${{PGPW}}@127.0.0.1:{port}/postgres"
        finally:
            process.send_signal(signal.SIGINT)  # "fast": do not wait for clients
            process.wait(30)
    finally:
        shutil.rmtree(folder)


def read(
    location: str, query: str, after: date | None = None, password: str = PASSWORD, **more: object
) -> list[Document | Dropped | None]:
    source = Source(name="orders", kind="sql", location=location, query=query, **more)
    return list(sql_rows.read(Path(), Origin(source, location, "2026-01-31"), {"PGPW": password}, after))


def test_values_become_text_whatever_the_servers_time_zone_is(server: str) -> None:
    items = read(server, "select * from o where at < :end order by id")
    assert [json.loads(i.fields) for i in items if isinstance(i, Document)] == [
        {"id": "1", "at": "2026-01-30 12:00:00+00:00", "total": "9.50", "more.who.name": "Ana", "tags": "a, b"},
        {"id": "2", "at": "2026-01-31 23:59:59+00:00", "total": "", "more": "", "tags": ""},
    ]


def test_a_window_of_days_in_utc(server: str) -> None:
    keyed = {"cursor": "at", "key": ("id",)}
    assert [i.position for i in read(server, "select * from o", **keyed) if i] == ["key 1", "key 2", "key 4"]
    assert [i.position for i in read(server, "select * from o", date(2026, 1, 31), **keyed) if i] == ["key 2"]


def test_many_rows_come_through_a_server_side_cursor(server: str) -> None:
    query = "select n as id, repeat('x', 100) as text from generate_series(1, 20000) n order by n"
    items = read(server, query)
    assert len(items) == 20000 and items[-1] is not None and items[-1].position == "row 20000"


def test_nothing_can_be_changed(server: str) -> None:
    with pytest.raises(SourceError, match="read-only"):
        read(server, "select nextval('s') from o")


@pytest.mark.parametrize(
    ("query", "password", "named"),
    [
        ("select nonsense from o", PASSWORD, "nonsense"),
        ("select 1", "wr@ng/pass", "authentication"),
        ("select 10 / (n - 500) as x from generate_series(1, 1000) n", PASSWORD, "division by zero"),
    ],
)
def test_what_the_server_refuses_is_named_without_the_password(
    server: str, query: str, password: str, named: str
) -> None:
    with pytest.raises(SourceError, match=named) as caught:
        read(server, query, password=password)
    assert "Source orders" in str(caught.value) and password not in str(caught.value)
