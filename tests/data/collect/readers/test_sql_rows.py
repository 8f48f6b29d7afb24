"""SQL, on SQLite."""

from __future__ import annotations

import json
import logging
import sqlite3
from datetime import date
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import mssql, mysql, oracle, postgresql, sqlite

from llmops.config import Source
from llmops.data.collect.readers import sql_rows
from llmops.data.collect.readers.origin import Origin
from llmops.errors import SourceError
from llmops.records import Document, Dropped

PASSWORD = "p@ss/word:1"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "db").mkdir()
    connection = sqlite3.connect(tmp_path / "db" / "shop.db")
    connection.executescript(
        "create table o (id integer, day text, total real, note text);"
        "insert into o values (1, '2026-01-30 23:59:59', 9.5, 'a'), (2, '2026-01-31 00:00:00', 1, null),"
        "(3, '2026-01-31 23:59:59', 2, 'c'), (4, '2026-02-01 00:00:00', 3, 'd')"
    )
    connection.close()
    return tmp_path


def read(
    root: Path, location: str = "sqlite:///db/shop.db", query: str = "select * from o order by id", **more: object
) -> list[Document]:
    environ = more.pop("environ", {})
    source = Source(name="orders", kind="sql", location=location, query=query, **more)
    items = sql_rows.read(root, Origin(source, location, "2026-01-31"), environ)
    return [item for item in items if isinstance(item, Document)]


def test_rows_become_strings_and_the_file_is_found_below_the_root(root: Path) -> None:
    documents = read(root)
    assert [json.loads(d.fields) for d in documents][:2] == [
        {"id": "1", "day": "2026-01-30 23:59:59", "total": "9.5", "note": "a"},
        {"id": "2", "day": "2026-01-31 00:00:00", "total": "1.0", "note": ""},
    ]
    assert (documents[1].position, documents[1].location) == ("row 2", "sqlite:///db/shop.db")


def test_the_interval_bounds_are_one_day(root: Path) -> None:
    documents = read(root, query="select id from o where day >= :start and day < :end order by id")
    assert [json.loads(d.fields)["id"] for d in documents] == ["2", "3"]


def test_variables_are_read_from_the_environment(root: Path) -> None:
    environ = {"DB": "shop.db", "URL": "sqlite:///db/shop.db"}
    assert len(read(root, "sqlite:///db/${DB}", environ=environ)) == 4
    assert read(root, "${URL}", environ=environ)[0].location == "${URL}"
    with pytest.raises(SourceError, match="NO_SUCH"):
        read(root, "sqlite:///${NO_SUCH}")


def test_a_missing_database_is_not_created(root: Path) -> None:
    with pytest.raises(SourceError, match=r"db/none\.db"):
        read(root, "sqlite:///db/none.db")
    assert not (root / "db" / "none.db").exists()


@pytest.mark.parametrize(
    ("location", "environ"),
    [
        ("postgresql+psycopg2://ana:${PW}@127.0.0.1:1/shop", {"PW": PASSWORD}),
        ("nosuchdriver://ana:${PW}@127.0.0.1/shop", {"PW": PASSWORD}),
        ("postgresql://127.0.0.1:1/shop?password=${PW}", {"PW": PASSWORD}),
        ("${URL}", {"URL": f"mysql://ana:{PASSWORD}@127.0.0.1:1/shop"}),
        ("${URL}", {"URL": f"no url {PASSWORD}"}),
    ],
)
def test_a_password_is_in_no_message(
    root: Path, location: str, environ: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG), pytest.raises(SourceError) as caught:
        read(root, location, environ=environ)
    assert PASSWORD not in str(caught.value) + caplog.text
    assert "p%40ss" not in str(caught.value) + caplog.text
    assert caught.value.__cause__ is None and caught.value.__suppress_context__


@pytest.mark.parametrize("location", ["postgresql://ana:hunter22@host/db", "postgresql://host/db?password=hunter22"])
def test_a_password_in_the_configuration_is_refused(root: Path, location: str) -> None:
    with pytest.raises(SourceError, match="password") as caught:
        read(root, location)
    assert "hunter22" not in str(caught.value)


@pytest.mark.parametrize("query", ["select nonsense from o", "selec", "select :other from o"])
def test_a_query_that_fails_names_the_source(root: Path, query: str) -> None:
    with pytest.raises(SourceError, match="Source orders"):
        read(root, query=query)


def test_a_column_that_is_not_there_is_named(root: Path) -> None:
    with pytest.raises(SourceError, match=r"'q'.*id, day"):
        read(root, fields={"question": "q"})


def test_no_order_is_warned_of(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    read(root, query="select * from o")
    assert "ORDER BY" in caplog.text


def test_a_driver_that_tells_the_password_is_silenced(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(url: sa.URL, **_: object) -> None:
        raise sa.exc.OperationalError("connect", {}, Exception(f"no entry for ana:{url.password} at host"))

    monkeypatch.setattr(sql_rows.sa, "create_engine", refuse)
    with pytest.raises(SourceError, match=r"no entry for ana:\*\*\* at host") as caught:
        read(root, "postgresql://ana:${PW}@host/shop", environ={"PW": PASSWORD})
    assert PASSWORD not in str(caught.value)


@pytest.fixture
def versions(tmp_path: Path) -> Path:
    connection = sqlite3.connect(tmp_path / "v.db")
    connection.executescript(
        "create table v (shop text, id integer, at text, note text);"
        "insert into v values ('b', 2, '2026-01-30 09:00:00', 'old'), ('b', 2, '2026-01-31 23:59:59', 'new'),"
        "('a', 1, '2026-01-29', '1 early'), ('b', 2, '2026-02-01 00:00:00', 'too late'),"
        "('a', 3, '2026-01-31', 'same'),"
        "('a', 3, '2026-01-31', 'Same'), (null, 4, '2026-01-31', 'no key'), ('c', 5, null, 'no cursor')"
    )
    connection.close()
    return tmp_path


def window(
    root: Path, after: date | None = None, query: str = "select * from v;", **more: object
) -> list[Document | Dropped | None]:
    how = {"cursor": "at", "key": ("shop", "id"), **more}
    source = Source(name="v", kind="sql", location="sqlite:///v.db", query=query, **how)
    return list(sql_rows.read(root, Origin(source, "sqlite:///v.db", "2026-01-31"), {}, after))


def notes(items: list[Document | Dropped | None]) -> dict[str, str]:
    return {i.position: json.loads(i.fields)["note"] for i in items if isinstance(i, Document)}


def test_the_newest_row_of_each_key_before_the_end_is_read(versions: Path) -> None:
    items = window(versions)
    assert notes(items) == {'key ["a", "1"]': "1 early", 'key ["a", "3"]': "same", 'key ["b", "2"]': "new"}
    assert [(i.position, i.rule) for i in items if isinstance(i, Dropped)] == [
        ("row 1", "malformed"),
        ('key ["c", "5"]', "malformed"),
    ]


def test_only_the_days_of_the_window_are_asked_for(versions: Path) -> None:
    items = window(versions, date(2026, 1, 31))
    assert notes(items) == {'key ["a", "3"]': "same", 'key ["b", "2"]': "new"}
    assert [i.position for i in items if isinstance(i, Dropped)] == ["row 1"]
    assert notes(window(versions, date(2026, 2, 1))) == {}


def test_one_key_column_is_written_plainly_and_ids_do_not_depend_on_the_window(versions: Path) -> None:
    query = "select id, at, note from v where id = 2 order by note -- all"
    (once,), (again,) = (window(versions, after, query, key=("id",)) for after in (None, date(2026, 1, 31)))
    assert isinstance(once, Document) and isinstance(again, Document)
    assert (once.position, once.id) == ("key 2", again.id)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"cursor": "changed"}, "changed"),
        ({"key": ("Number",)}, "Number"),
        ({"cursor": "note", "key": ("id",)}, "'1 early'"),
        ({"cursor": "id", "key": ("note",)}, "'1'"),
    ],
)
def test_a_cursor_or_key_that_cannot_be_used_is_named(versions: Path, wrong: dict[str, object], named: str) -> None:
    with pytest.raises(SourceError, match=named):
        window(versions, None, "select * from v where shop = 'a' and id = 1", **wrong)


def test_two_columns_of_one_name_are_refused(root: Path) -> None:
    with pytest.raises(SourceError, match="'id'"):
        read(root, query="select a.id, b.id from o a join o b using (id) order by a.id")


@pytest.mark.parametrize("after", [None, date(2026, 1, 31)])
def test_a_query_for_days_is_one_of_each_dialect(after: date | None) -> None:
    query = "SELECT id, changed AS \"updated at\" FROM orders WHERE state <> 'as' -- all\n;"
    source = Source(name="s", kind="sql", location="x", query=query, cursor="updated at", key=["id", "Order"])
    written = {
        dialect.name: str(sql_rows.period_query(source, after).compile(dialect=dialect))
        for dialect in (oracle.dialect(), postgresql.dialect(), sqlite.dialect(), mssql.dialect(), mysql.dialect())
    }
    assert "\n) every_day" in written["oracle"] and ") AS every_day" in written["postgresql"]
    assert 'ORDER BY id, "Order", "updated at"' in written["oracle"]
    assert "ORDER BY id, [Order], [updated at]" in written["mssql"]
    assert all("-- all\n" in text for text in written.values())
