"""extracts: the documents of a table do not depend on the order of runs, nor on interruptions."""

import os
import shutil
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmops.config import Collect, Source
from llmops.data import row_file
from llmops.data.collect import extract_file
from llmops.data.collect import stage as collect
from llmops.data.collect.readers import sql_rows
from llmops.data.collect.readers.origin import Origin
from llmops.frame import intervals
from llmops.frame.records import Document, DroppedRow, read_rows

Rows = list[tuple[int | None, str, str | None]]  #: key, text, day

TABLE = {"kind": "sql", "location": "sqlite:///shop.db", "query": "select * from orders", "cursor": "changed"}
ORDERS = Source(name="orders", **TABLE, key=("id",), fields={"question": "text"})


def insert_rows(root: Path, rows: Rows) -> None:
    with sqlite3.connect(root / "shop.db") as database:
        database.execute("create table if not exists orders (id, text, changed)")
        database.executemany("insert into orders values (?, ?, ?)", rows)
    database.close()


def run_collect(root: Path, interval: str, source: Source = ORDERS) -> dict[str, Any]:
    out = root / f"out-{interval}"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    config = Collect(root=root, sources=(source,), cache=root / "cache")
    return dict(collect.run(config, interval=interval, out=out)["sources"]["orders"])


def read_questions(root: Path, interval: str) -> list[tuple[str, str]]:
    rows = read_rows(root / f"out-{interval}" / "documents.parquet", Document)
    return [(row.position, row.question) for row in rows]


def read_files(root: Path, interval: str) -> tuple[bytes, ...]:
    names = ("documents.parquet", "quarantine.parquet")
    return tuple((root / f"out-{interval}" / name).read_bytes() for name in names)


@pytest.fixture
def queried_periods(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Return the periods that the database is queried for, each with its first and its last day."""
    periods: list[tuple[str, str]] = []
    original = sql_rows.read

    def read(root: Path, origin: Any, environ: Any = os.environ, after: date | None = None) -> Any:
        periods.append((after.isoformat() if after else "", origin.interval))
        return original(root, origin, environ, after)

    monkeypatch.setattr(sql_rows, "read", read)
    return periods


def test_each_day_is_asked_for_once(tmp_path: Path, queried_periods: list[tuple[str, str]]) -> None:
    insert_rows(tmp_path, [(1, "one", "2026-01-01"), (2, "two", "2026-01-02 23:59:59"), (3, "three", "2026-01-03")])
    assert run_collect(tmp_path, "2026-01-02")["read"] == 1
    assert read_questions(tmp_path, "2026-01-02") == [("key 1", "one"), ("key 2", "two")]
    insert_rows(tmp_path, [(2, "two, changed", "2026-01-04")])
    assert run_collect(tmp_path, "2026-01-04")["unchanged"] == 1
    assert read_questions(tmp_path, "2026-01-04") == [("key 1", "one"), ("key 2", "two, changed"), ("key 3", "three")]
    run_collect(tmp_path, "2026-01-04")
    assert queried_periods == [("", "2026-01-02"), ("2026-01-03", "2026-01-04")]


def test_a_row_that_where_leaves_out_replaces_the_older_one(tmp_path: Path) -> None:
    insert_rows(tmp_path, [(1, "fine", "2026-01-01"), (2, "fine", "2026-01-01"), (1, "cancelled", "2026-01-02")])
    source = ORDERS.model_copy(update={"where": {"text": "fine"}})
    run_collect(tmp_path, "2026-01-01", source)
    assert run_collect(tmp_path, "2026-01-02", source)["left_out"] == 1
    assert read_questions(tmp_path, "2026-01-02") == [("key 2", "fine")]


def test_rows_without_a_key_or_a_day_are_all_named(tmp_path: Path) -> None:
    insert_rows(tmp_path, [(1, "fine", "2026-01-01"), (None, "no key", "2026-01-01"), (None, "nor here", "2026-01-02")])
    insert_rows(tmp_path, [(7, "no day", None), (7, "but now", "2026-01-02")])
    for day in ("2026-01-01", "2026-01-02"):
        run_collect(tmp_path, day)
    bad = [row.content for row in read_rows(tmp_path / "out-2026-01-02" / "quarantine.parquet", DroppedRow)]
    assert len(bad) == 3 and all(any(text in row for row in bad) for text in ("no key", "nor here", "no day"))
    assert read_questions(tmp_path, "2026-01-02") == [("key 1", "fine"), ("key 7", "but now")]


def test_days_in_which_rows_may_still_come_are_asked_for_again(
    tmp_path: Path, queried_periods: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    insert_rows(tmp_path, [(1, "one", "2026-01-01"), (2, "two", "2026-01-05 08:00")])
    monkeypatch.setattr(intervals, "get_today", lambda: date(2026, 1, 5))
    run_collect(tmp_path, "2026-01-05")  # by hand, before the day is over
    insert_rows(tmp_path, [(3, "in the evening", "2026-01-05 20:00")])
    monkeypatch.setattr(intervals, "get_today", lambda: date(2026, 1, 6))
    run_collect(tmp_path, "2026-01-05")
    assert [text for _, text in read_questions(tmp_path, "2026-01-05")] == ["one", "two", "in the evening"]
    insert_rows(tmp_path, [(4, "committed late", "2026-01-05 23:59")])
    monkeypatch.setattr(intervals, "get_today", lambda: date(2026, 1, 7))
    run_collect(tmp_path, "2026-01-06")
    assert [text for _, text in read_questions(tmp_path, "2026-01-06")] == [
        "one",
        "two",
        "in the evening",
        "committed late",
    ]
    assert queried_periods[3:] == [
        ("2026-01-05", "2026-01-05"),
        ("2026-01-05", "2026-01-05"),
        ("2026-01-06", "2026-01-06"),
    ]


def test_another_database_behind_the_variable_is_another_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        insert_rows(tmp_path / name, [(1, f"from the {name}", "2026-01-01")])
    source = ORDERS.model_copy(update={"location": "sqlite:///${SHOP}/shop.db"})
    for name in ("first", "second"):
        monkeypatch.setenv("SHOP", name)
        run_collect(tmp_path, "2026-01-01", source)
        assert read_questions(tmp_path, "2026-01-01") == [("key 1", f"from the {name}")]


DAYS = st.integers(1, 4).map(lambda day: f"2026-01-0{day}")
ROWS = st.lists(st.tuples(st.integers(1, 4), st.text("ab\n€", max_size=3), DAYS), min_size=1, max_size=12)


@given(rows=ROWS, order=st.permutations(["2026-01-01", "2026-01-02", "2026-01-04"]), small=st.booleans())
@settings(max_examples=5)
def test_any_order_of_intervals_gives_the_same_bytes(rows: Rows, order: list[str], small: bool) -> None:
    rows = [*rows, (9, "always", "2026-01-01")]
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(extract_file, "BATCH", 2 if small else 1000)
        root = Path(folder)
        insert_rows(root, rows)
        for interval in order:
            run_collect(root, interval)
        first_bytes = {interval: read_files(root, interval) for interval in order}
        run_collect(root, order[0])  # again, from what is kept
        assert read_files(root, order[0]) == first_bytes[order[0]]
        shutil.rmtree(root / "cache")
        for interval in reversed(order):  # and in the other order, from nothing
            run_collect(root, interval)
            assert read_files(root, interval) == first_bytes[interval]


def test_long_texts_of_an_extract_come_in_small_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_file, "GROUP_BYTES", 1000)
    origin = Origin(Source(name="s", kind="text", location="x"), "x")
    texts = ["same" * 100] * 20  # stored once by Parquet, which counts it once
    extract_file.write_extract(tmp_path / "x", (origin.make_document(f"line {n}", text=t) for n, t in enumerate(texts)))
    batches = list(extract_file.read_extract(tmp_path / "x"))
    assert [text for batch in batches for text in batch["text"].to_pylist()] == texts
    assert max(batch["text"].nbytes for batch in batches) < 1500


def test_runs_at_once_share_what_they_read(tmp_path: Path, queried_periods: list[tuple[str, str]]) -> None:
    insert_rows(tmp_path, [(1, "one", "2026-01-01"), (2, "two", "2026-01-02")])
    days = ["2026-01-02", "2026-01-03", "2026-01-04"]
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda day: run_collect(tmp_path, day), days))
    assert all([text for _, text in read_questions(tmp_path, day)] == ["one", "two"] for day in days)
    assert len(queried_periods) == 3
