"""SQL, on SQLite."""

import json
import logging
import sqlite3
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import mssql, mysql, oracle, postgresql, sqlite

from llmops.config import Source
from llmops.data.collect.readers import sql_rows
from llmops.data.collect.readers.origin import Item, Origin
from llmops.frame.errors import SourceError
from llmops.frame.records import Document, DroppedRow
from tests.data.collect.readers.reading import get_documents

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


def read_documents(
    root: Path, location: str = "sqlite:///db/shop.db", query: str = "select * from o order by id", **more: Any
) -> list[Document]:
    environ = more.pop("environ", {})
    source = Source(name="orders", kind="sql", location=location, query=query, **more)
    return get_documents(sql_rows.read(root, Origin(source, location, "2026-01-31"), environ))


def test_rows_become_strings_and_the_file_is_found_below_the_root(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    documents = read_documents(root)
    assert [json.loads(d.fields) for d in documents][:2] == [
        {"id": "1", "day": "2026-01-30 23:59:59", "total": "9.5", "note": "a"},
        {"id": "2", "day": "2026-01-31 00:00:00", "total": "1.0", "note": ""},
    ]
    assert (documents[1].position, documents[1].location) == ("row 2", "sqlite:///db/shop.db")
    assert "ORDER BY" not in caplog.text
    documents = read_documents(root, query="select id from o where day >= :start and day < :end")
    assert [json.loads(d.fields)["id"] for d in documents] == ["2", "3"] and "ORDER BY" in caplog.text


def test_variables_are_read_from_the_environment_and_a_missing_database_is_not_created(root: Path) -> None:
    environ = {"DB": "shop.db", "URL": "sqlite:///db/shop.db"}
    assert len(read_documents(root, "sqlite:///db/${DB}", environ=environ)) == 4
    assert read_documents(root, "${URL}", environ=environ)[0].location == "${URL}"
    with pytest.raises(SourceError, match=r"db/none\.db"):
        read_documents(root, "sqlite:///db/none.db")
    assert not (root / "db" / "none.db").exists()
    with pytest.raises(SourceError, match="password") as caught:
        read_documents(root, "postgresql://host/db?password=hunter22")
    assert "hunter22" not in str(caught.value)


@pytest.mark.parametrize(
    ("location", "environ"),
    [
        ("postgresql+psycopg2://ana:${PW}@127.0.0.1:1/shop", {"PW": PASSWORD}),
        ("${URL}", {"URL": f"mysql://ana:{PASSWORD}@127.0.0.1:1/shop"}),
        ("${URL}", {"URL": f"no url {PASSWORD}"}),
    ],
)
def test_a_password_is_in_no_message(
    root: Path,
    location: str,
    environ: dict[str, str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with caplog.at_level(logging.DEBUG), pytest.raises(SourceError) as caught:
        read_documents(root, location, environ=environ)
    assert PASSWORD not in str(caught.value) + caplog.text
    assert "p%40ss" not in str(caught.value) + caplog.text
    assert caught.value.__cause__ is None and caught.value.__suppress_context__

    def refuse(url: sa.URL, **_: object) -> None:
        raise sa.exc.OperationalError("connect", {}, Exception(f"no entry for ana:{url.password} at host"))

    monkeypatch.setattr(sql_rows.sa, "create_engine", refuse)  # a driver that shows the password
    with pytest.raises(SourceError, match=r"no entry for ana:\*\*\* at host") as caught:
        read_documents(root, "postgresql://ana:${PW}@host/shop", environ={"PW": PASSWORD})
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


def read_period(root: Path, after: date | None = None, query: str = "select * from v;", **more: object) -> list[Item]:
    source = Source(
        **{"name": "v", "kind": "sql", "location": "sqlite:///v.db", "query": query},
        **{"cursor": "at", "key": ("shop", "id"), **more},
    )
    return list(sql_rows.read(root, Origin(source, "sqlite:///v.db", "2026-01-31"), {}, after))


def get_notes(items: list[Item]) -> dict[str, str]:
    return {item.position: json.loads(item.fields)["note"] for item in get_documents(items)}


def test_the_newest_row_of_each_key_before_the_end_is_read(versions: Path) -> None:
    items = read_period(versions)
    assert get_notes(items) == {'key ["a", "1"]': "1 early", 'key ["a", "3"]': "same", 'key ["b", "2"]': "new"}
    assert [(i.position, i.rule) for i in items if isinstance(i, DroppedRow)] == [
        ("row 1", "malformed"),
        ('key ["c", "5"]', "malformed"),
    ]


def test_only_the_days_of_the_window_are_asked_for_and_ids_do_not_depend_on_it(versions: Path) -> None:
    items = read_period(versions, date(2026, 1, 31))
    assert get_notes(items) == {'key ["a", "3"]': "same", 'key ["b", "2"]': "new"}
    assert [i.position for i in items if isinstance(i, DroppedRow)] == ["row 1"]
    assert get_notes(read_period(versions, date(2026, 2, 1))) == {}
    query = "select id, at, note from v where id = 2 order by note -- all"
    (first,), (second,) = (
        get_documents(read_period(versions, after, query, key=("id",))) for after in (None, date(2026, 1, 31))
    )
    assert (first.position, first.id) == ("key 2", second.id)  # one column is written plainly


def test_a_query_for_days_is_one_of_each_dialect() -> None:
    query = "SELECT id, changed AS \"updated at\" FROM orders WHERE state <> 'as' -- all\n;"
    source = Source(name="s", kind="sql", location="x", query=query, cursor="updated at", key=["id", "Order"])
    dialects = (oracle.dialect(), postgresql.dialect(), sqlite.dialect(), mssql.dialect(), mysql.dialect())
    for after in (None, date(2026, 1, 31)):
        written = {d.name: str(sql_rows.build_period_query(source, after).compile(dialect=d)) for d in dialects}
        assert "\n) every_day" in written["oracle"] and ") AS every_day" in written["postgresql"]
        assert 'ORDER BY id, "Order", "updated at"' in written["oracle"]
        assert "ORDER BY id, [Order], [updated at]" in written["mssql"]
        assert all("-- all\n" in text for text in written.values())
