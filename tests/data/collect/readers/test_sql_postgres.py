"""SQL, on a PostgreSQL server in another time zone."""

import json
import os
from collections.abc import Callable
from datetime import date
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest

from llmops.config import Source
from llmops.data.collect.readers import sql_rows
from llmops.data.collect.readers.origin import Item, Origin
from llmops.frame.errors import SourceError
from tests.data.collect.readers.reading import get_documents

PASSWORD = "wr@ng/pass"


@pytest.fixture
def database(postgresql: Callable[[], str]) -> str:
    url = postgresql()
    with psycopg.connect(url.replace("${TEST_PG_PASSWORD}", quote(os.environ["TEST_PG_PASSWORD"], safe=""))) as server:
        server.execute(
            f"alter database {url.rpartition('/')[2]} set timezone = 'Asia/Tokyo'; create sequence s;"
            "create table o (id int primary key, at timestamptz, total numeric(8,2), more jsonb, tags text[]);"
            "insert into o values (1, '2026-01-30 12:00+00', 9.50, '{\"who\": {\"name\": \"Ana\"}}', '{a,b}'),"
            "(2, '2026-01-31 23:59:59+00', null, null, null), (3, '2026-02-01 00:00+00', 1, null, null),"
            "(4, null, 1, null, null)"
        )
    return url


def read_items(location: str, query: str, after: date | None = None, **more: object) -> list[Item]:
    source = Source(name="orders", kind="sql", location=location, query=query, **more)
    return list(sql_rows.read(Path(), Origin(source, location, "2026-01-31"), os.environ, after))


def test_values_and_windows_are_in_utc_and_many_rows_come_through_a_cursor(database: str) -> None:
    items = get_documents(read_items(database, "select * from o where at < :end order by id"))
    assert [json.loads(item.fields) for item in items] == [
        {"id": "1", "at": "2026-01-30 12:00:00+00:00", "total": "9.50", "more.who.name": "Ana", "tags": "a, b"},
        {"id": "2", "at": "2026-01-31 23:59:59+00:00", "total": "", "more": "", "tags": ""},
    ]
    options = {"cursor": "at", "key": ("id",)}
    assert [i.position for i in read_items(database, "select * from o", **options) if i] == ["key 1", "key 2", "key 4"]
    assert [i.position for i in read_items(database, "select * from o", date(2026, 1, 31), **options) if i] == ["key 2"]
    many = read_items(database, "select n as id, repeat('x', 100) as text from generate_series(1, 20000) n order by n")
    assert len(many) == 20000 and many[-1] is not None and many[-1].position == "row 20000"


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("select nextval('s') from o", "read-only"),
        ("select 1", "authentication"),
        ("select 10 / (n - 500) as x from generate_series(1, 1000) n", "division by zero"),
    ],
)
def test_a_refusal_hides_the_password(database: str, monkeypatch: pytest.MonkeyPatch, query: str, named: str) -> None:
    if named == "authentication":
        monkeypatch.setenv("TEST_PG_PASSWORD", PASSWORD)
    with pytest.raises(SourceError, match=named) as caught:
        read_items(database, query)
    assert "Source orders" in str(caught.value) and os.environ["TEST_PG_PASSWORD"] not in str(caught.value)
