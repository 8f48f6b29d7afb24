"""collect: every source is read, bad rows are quarantined, a source without documents is an error."""

import shutil
import sqlite3
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from llmops.config import Collect, Source
from llmops.data import row_file
from llmops.data.collect import extract_file
from llmops.data.collect import stage as collect
from llmops.data.collect.forgotten_list import ForgottenList
from llmops.data.collect.readers.kinds import READERS
from llmops.data.collect.readers.origin import Items, Origin
from llmops.data.feedback.documents import Corrections
from llmops.data.feedback.rows import Review, add
from llmops.frame import intervals
from llmops.frame.errors import SourceError
from llmops.frame.records import Document, DroppedRow, read_rows
from llmops.state.database import database_at

DAY = "2026-01-31"


def make_source(name: str, kind: str, location: str, **more: object) -> Source:
    return Source(name=name, kind=kind, location=location, **more)


def make_config(root: Path, *sources: Source, **more: object) -> Collect:
    return Collect(root=root, sources=sources, cache=root / "cache", **more)


def run_collect(
    root: Path, *sources: Source, interval: str = DAY, **more: object
) -> tuple[dict[str, Any], list[Document], list[DroppedRow]]:
    out = root / "out"
    shutil.rmtree(out, ignore_errors=True)  # as the stage runner does
    out.mkdir()
    metrics = collect.run(make_config(root, *sources, **more), interval=interval, out=out)
    assert sorted(p.name for p in out.iterdir()) == ["documents.parquet", "quarantine.parquet"]
    return (
        dict(metrics),
        read_rows(out / "documents.parquet", Document),
        read_rows(out / "quarantine.parquet", DroppedRow),
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.csv").write_text("q,a\n1,2\n3\n", encoding="utf-8")
    (tmp_path / "in" / "b.csv").write_text("q,a\n5,6\n", encoding="utf-8")
    (tmp_path / "in" / "c.jsonl").write_text('{"q": "x"}\n{oops\n', encoding="utf-8")
    (tmp_path / "in" / "2026-01-31.txt").write_text("of the day", encoding="utf-8")
    (tmp_path / "in" / "2026-02-01.txt").write_text("of another day", encoding="utf-8")
    return tmp_path


def test_all_sources_in_order_with_counts_and_quarantine_and_again_the_same_bytes(root: Path) -> None:
    fields = {"question": "q", "answer": "a"}
    sources = (
        make_source("tables", "csv", "in/*.csv", fields=fields, licence="MIT", owner="ana"),
        make_source("lines", "jsonl", "in/c.jsonl"),
    )
    metrics, documents, quarantine = run_collect(root, *sources)
    assert [(d.source, d.location, d.position) for d in documents] == [
        ("tables", "in/a.csv", "row 2"),
        ("tables", "in/b.csv", "row 2"),
        ("lines", "in/c.jsonl", "line 1"),
    ]
    assert [(q.source, q.location, q.position, q.rule) for q in quarantine] == [
        ("tables", "in/a.csv", "row 3", "malformed"),
        ("lines", "in/c.jsonl", "line 2", "malformed"),
    ]
    assert (documents[0].licence, documents[0].owner) == ("MIT", "ana")
    assert (metrics["documents"], metrics["quarantined"]) == (3, 2)
    once = [(root / "out" / name).read_bytes() for name in ("documents.parquet", "quarantine.parquet")]
    run_collect(root, *sources)
    assert once == [(root / "out" / name).read_bytes() for name in ("documents.parquet", "quarantine.parquet")]


def test_locations_hold_the_intervals_date_and_no_machine(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other") / "x.txt"
    other.write_text("text", encoding="utf-8")
    _, documents, _ = run_collect(
        root, make_source("daily", "text", "in/{date}.txt"), make_source("far", "text", str(other))
    )
    assert [d.text for d in documents] == ["of the day", "text"]
    assert documents[0].location == "in/2026-01-31.txt"
    assert documents[1].location.startswith("../") and documents[1].location.endswith("other0/x.txt")


def test_every_source_that_yields_nothing_is_named_with_its_reason(root: Path) -> None:
    (root / "in" / "bad.json").write_text("{nope", encoding="utf-8")
    with pytest.raises(SourceError) as caught:
        run_collect(
            root,
            make_source("broken", "json", "in/bad.json"),
            make_source("choosy", "csv", "in/b.csv", where={"q": "no such"}),
            make_source("gone", "csv", "in/none*.csv"),
            make_source("folder", "csv", "in"),
            make_source("good", "csv", "in/b.csv"),
        )
    message = str(caught.value)
    for part in ("Source broken", "in/bad.json", "line 1", "Source choosy", "in/none*.csv", "folder"):
        assert part in message
    assert "good" not in message
    assert [q.source for q in read_rows(root / "out" / "quarantine.parquet", DroppedRow)] == ["broken"]
    assert not (root / "out" / "documents.parquet").exists()
    with pytest.raises(SourceError, match="sources"):
        run_collect(root)


def test_an_unchanged_file_is_not_read_twice(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    original = READERS["csv"]

    def count_call(path: Path, origin: Origin) -> Items:
        read.append(path.name)
        return original(path, origin)

    count_call.__module__ = original.__module__
    monkeypatch.setitem(READERS, "csv", count_call)
    _, documents, quarantine = run_collect(root, make_source("tables", "csv", "in/*.csv", where={"q": "1"}))
    (root / "in" / "b.csv").write_text("q,a\n1,8\n", encoding="utf-8")
    (root / "in" / "d.csv").write_text("q,a\n1,9\n2,9\n", encoding="utf-8")
    wider = make_source("tables", "csv", "in/**/**/*.csv", where={"q": "1"})  # names the same files, some twice
    for new, unchanged in ((2, 1), (0, 3)):
        metrics, later, later_quarantine = run_collect(root, wider, interval="2026-02-01")
        assert metrics["sources"]["tables"] == {
            **{"documents": 3, "quarantined": 1, "forgotten": 0, "left_out": 1},
            **{"read": new, "unchanged": unchanged},
        }
    assert read == ["a.csv", "b.csv", "b.csv", "d.csv"]
    assert later[0] == documents[0]  # what is the same on another day is the same row
    assert later_quarantine == quarantine
    run_collect(root, make_source("tables", "csv", "in/*.csv", where={"q": "1"}, licence="MIT"))
    assert len(read) == 7  # how it is read has changed


def test_what_did_not_open_is_quarantined_and_tried_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = READERS["csv"]

    def break_reading(path: Path, origin: Origin) -> Items:
        yield origin.make_document("row 1", text="before the break")
        raise PermissionError(13, "Permission denied")

    break_reading.__module__ = original.__module__
    monkeypatch.setitem(READERS, "csv", break_reading)
    _, documents, quarantine = run_collect(root, make_source("tables", "csv", "in/b.csv"))
    assert [d.text for d in documents] == ["before the break"]
    assert [(q.position, q.rule, q.detail) for q in quarantine] == [("file", "unreadable", "Permission denied")]
    monkeypatch.setitem(READERS, "csv", original)
    _, documents, quarantine = run_collect(root, make_source("tables", "csv", "in/b.csv"))
    assert ([d.position for d in documents], quarantine) == (["row 2"], [])


def test_documents_go_to_the_repository_once(root: Path) -> None:
    tables = make_source("tables", "csv", "in/*.csv")
    metrics, documents, _ = run_collect(root, tables, repository="shelf")
    assert metrics["repository"]["sent"]
    part = next((root / "shelf" / "documents" / f"interval={DAY}").glob("*.parquet"))
    assert read_rows(part, Document) == documents
    repeated, _, _ = run_collect(root, tables, repository="shelf")
    assert not repeated["repository"]["sent"]
    assert len(list((root / "shelf").rglob("*.parquet"))) == 1


@pytest.mark.parametrize(("limit", "value"), [("BATCH", 3), ("BATCH_CHARS", 200)])
def test_all_rows_of_many_batches_arrive_in_order(
    root: Path, monkeypatch: pytest.MonkeyPatch, limit: str, value: int
) -> None:
    monkeypatch.setattr(extract_file, limit, value)
    monkeypatch.setattr(extract_file, "ARROW_BATCH", 4)
    monkeypatch.setattr(row_file, "GROUP_ROWS", 5)
    numbers = [str(n) for n in range(23)]
    (root / "in" / "many.csv").write_text("q\n" + "\n".join(numbers) + "\n", encoding="utf-8")
    _, documents, _ = run_collect(root, make_source("many", "csv", "in/many.csv", fields={"question": "q"}))
    assert [d.question for d in documents] == numbers
    assert pq.ParquetFile(root / "out" / "documents.parquet").num_row_groups == 5


@pytest.mark.parametrize(("at", "unchanged"), [(0, 0), (7, 2), (22, 3), (25, 4), (35, 5)])
def test_an_interruption_changes_no_byte(root: Path, monkeypatch: pytest.MonkeyPatch, at: int, unchanged: int) -> None:
    for name in ("d", "e"):
        (root / "in" / f"{name}.csv").write_text("q\n" + "\n".join(map(str, range(10))) + "\n", encoding="utf-8")
    with sqlite3.connect(root / "shop.db") as database:
        database.execute("create table t (id, q, changed)")
        rows = [(n, f"text {n}", f"2026-01-{29 + n % 2}") for n in range(20)]
        database.executemany("insert into t values (?, ?, ?)", rows)
    table = {"query": "select * from t", "cursor": "changed", "key": ("id",)}
    sources = make_source("tables", "csv", "in/*.csv"), make_source("table", "sql", "sqlite:///shop.db", **table)
    monkeypatch.setattr(intervals, "get_today", lambda: date(2026, 1, 31))  # so that the table has two windows
    run_collect(root, *sources)
    expected = (root / "out" / "documents.parquet").read_bytes()
    shutil.rmtree(root / "cache")
    rows_left = iter(range(at + 1))

    def interrupt(item: Document | DroppedRow) -> Document | DroppedRow:
        if next(rows_left) == at:
            raise KeyboardInterrupt
        return item

    with monkeypatch.context() as patch:
        patch.setattr(ForgottenList, "quarantine_rows", lambda _, items: map(interrupt, items))
        with pytest.raises(KeyboardInterrupt):
            run_collect(root, *sources)
    assert not (root / "out" / "documents.parquet").exists()
    (root / "cache" / f".{'0' * 64}.parquet.new").write_bytes(b"PAR1")  # as a process that is killed leaves it
    metrics, _, _ = run_collect(root, *sources)
    assert (root / "out" / "documents.parquet").read_bytes() == expected
    assert sum(counts["unchanged"] for counts in metrics["sources"].values()) == unchanged


def correct(root: Path, *corrections: tuple[str, str]) -> str:
    """Accept a correction for each question and context. Return the URL of the database."""
    database = database_at(f"sqlite:///{root / 'state.db'}")
    when = {"time": "2026-01-30T00:00:00Z", "decided": "2026-01-30T00:00:00Z"}
    reviews = [
        Review(
            **{"id": f"r{n}", "kind": "correction", "key": "", "role": "user", "state": "accepted", **when},
            **{"question": question, "context": context, "correction": "right"},
        )
        for n, (question, context) in enumerate(corrections)
    ]
    with database.change() as connection:
        add(connection, reviews)
    return database.url


def collect_corrected(root: Path, database: str) -> tuple[list[str], list[tuple[str, str]]]:
    """Return the answers of the remaining rows of `in/shop.csv`, and position and rule of the others."""
    fields = {"question": "q", "context": "c", "answer": "a"}
    config = make_config(
        root, make_source("said", "feedback", ""), make_source("shop", "csv", "in/shop.csv", fields=fields)
    )
    (root / "out").mkdir(exist_ok=True)
    collect.run(config, interval=DAY, out=root / "out", database=database)
    documents = read_rows(root / "out" / "documents.parquet", Document)
    dropped = read_rows(root / "out" / "quarantine.parquet", DroppedRow)
    return [d.answer for d in documents if d.source == "shop"], [(d.position, d.rule) for d in dropped]


def test_a_correction_takes_out_its_question_and_context(root: Path) -> None:
    lines = (
        ["q,c,a"]
        + [f"What colour is it?,Product {n},{n}" for n in (6, 7, 8)]
        + ["What colour is it?,,none", ",A page,"]
    )
    (root / "in" / "shop.csv").write_text("\n".join(lines), encoding="utf-8")
    database = correct(root, ("what colour  is it", "product 7"), ("\u200b", "A page"))
    answers, dropped = collect_corrected(root, database)
    assert (answers, dropped) == (["6", "8", "none", ""], [("row 3", "corrected")])


def test_a_source_whose_rows_are_all_corrected_is_read(root: Path) -> None:
    (root / "in" / "shop.csv").write_text("q,c,a\nWho pays?,,You\n", encoding="utf-8")
    assert collect_corrected(root, correct(root, ("Who pays?", ""))) == ([], [("row 2", "corrected")])


def test_corrected_rows_do_not_hide_a_broken_source(root: Path) -> None:
    (root / "in" / "shop.csv").write_text("q,c,a\nWho pays?,,You\n" + "x,y\n" * 9, encoding="utf-8")
    with pytest.raises(SourceError, match="all 10 rows of it were quarantined"):
        collect_corrected(root, correct(root, ("Who pays?", "")))


def test_a_correction_without_personal_data_takes_out_the_row_that_has_it(root: Path) -> None:
    """Feedback is stored with marks in place of names and addresses."""
    contexts = ["Mail ana@shop.example or 0171 2345.", "Mail ana@shop.example or Bo.", "Ring 0171 2345."]
    (root / "in" / "shop.csv").write_text(
        "\n".join(["q,c,a", *(f"Where to?,{context},{n}" for n, context in enumerate(contexts))]), encoding="utf-8"
    )
    database = correct(root, ("Where to?", "Mail <EMAIL_ADDRESS> or <PHONE_NUMBER>."))
    assert collect_corrected(root, database)[0] == ["2"]
    assert Corrections([]).find("Where to?", "") == ""


@pytest.mark.parametrize(
    ("context", "text", "fits"),
    [
        ("Call <PERSON>", "Call Ana", True),
        ("<PERSON> pays", "ana  pays.", True),
        ("<A> and <A> of <B>", "Ana and Bo of Rome", True),
        ("See <URL> now", "See it", False),
        ("See <URL> now", "Look now", False),
        ("a<X>" * 40 + "c", "a" * 400, False),
    ],
)
def test_a_mark_stands_for_any_text(context: str, text: str, fits: bool) -> None:
    row = Review(id="r", kind="correction", time="", key="", role="user", question="Q", context=context, correction="x")
    assert bool(Corrections([row]).find("q", text)) == fits


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "sql"},
        {"kind": "csv", "query": "select 1"},
        {"kind": "pdf", "fields": {"question": "q"}},
        {"kind": "csv", "fields": {"antwort": "q"}},
        {"kind": "csv", "encoding": "utf-99"},
        {"kind": "csv", "revision": "main"},
        {"kind": "dataset", "location": "a/b/c", "revision": "main"},
        {"kind": "dataset", "location": "s3://bucket/set"},
        {"kind": "sql", "query": "select 1 as id", "cursor": "changed"},
        {"kind": "sql", "query": "select * from o where changed >= :start", "cursor": "changed", "key": ("id",)},
    ],
)
def test_sources_that_make_no_sense_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        Source(**{"name": "s", "location": "x", **wrong})
    with pytest.raises(ValueError, match="named 'a'"):
        Collect(sources=(make_source("a", "csv", "x"), make_source("a", "csv", "y")))
