"""collect: every source is read, what is bad is quarantined, a source without documents is an error."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmops.config import Collect, Source
from llmops.data import collect
from llmops.errors import SourceError
from llmops.records import Document, Dropped, read_rows

DAY = "2026-01-31"


def source(name: str, kind: str, location: str, **more: object) -> Source:
    return Source(name=name, kind=kind, location=location, **more)


def run(root: Path, *sources: Source) -> tuple[dict[str, object], list[Document], list[Dropped]]:
    out = root / "out"
    out.mkdir(exist_ok=True)
    metrics = collect.run(Collect(root=root, sources=sources), interval=DAY, out=out)
    return dict(metrics), read_rows(out / "documents.parquet", Document), read_rows(out / "quarantine.parquet", Dropped)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.csv").write_text("q,a\n1,2\n3\n", encoding="utf-8")
    (tmp_path / "in" / "b.csv").write_text("q,a\n5,6\n", encoding="utf-8")
    (tmp_path / "in" / "c.jsonl").write_text('{"q": "x"}\n{oops\n', encoding="utf-8")
    (tmp_path / "in" / "2026-01-31.txt").write_text("of the day", encoding="utf-8")
    (tmp_path / "in" / "2026-02-01.txt").write_text("of another day", encoding="utf-8")
    return tmp_path


def test_all_sources_in_order_with_counts_and_quarantine(root: Path) -> None:
    fields = {"question": "q", "answer": "a"}
    metrics, documents, quarantine = run(
        root,
        source("tables", "csv", "in/*.csv", fields=fields, licence="MIT", owner="ana"),
        source("lines", "jsonl", "in/c.jsonl"),
    )
    assert [(d.source, d.location, d.position) for d in documents] == [
        ("tables", "in/a.csv", "row 2"),
        ("tables", "in/b.csv", "row 2"),
        ("lines", "in/c.jsonl", "line 1"),
    ]
    assert [(q.source, q.location, q.position, q.rule) for q in quarantine] == [
        ("tables", "in/a.csv", "row 3", "malformed"),
        ("lines", "in/c.jsonl", "line 2", "malformed"),
    ]
    assert (documents[0].licence, documents[0].owner, documents[0].interval) == ("MIT", "ana", DAY)
    assert (metrics["documents"], metrics["quarantined"]) == (3, 2)
    assert metrics["sources"] == {
        "tables": {"documents": 2, "quarantined": 1, "left_out": 0},
        "lines": {"documents": 1, "quarantined": 1, "left_out": 0},
    }


def test_the_same_input_gives_the_same_bytes(root: Path) -> None:
    run(root, source("tables", "csv", "in/*.csv"))
    once = [(root / "out" / name).read_bytes() for name in ("documents.parquet", "quarantine.parquet")]
    run(root, source("tables", "csv", "in/*.csv"))
    assert once == [(root / "out" / name).read_bytes() for name in ("documents.parquet", "quarantine.parquet")]


def test_the_date_in_a_location_is_the_intervals(root: Path) -> None:
    _, documents, _ = run(root, source("daily", "text", "in/{date}.txt"))
    assert [(d.text, d.location) for d in documents] == [("of the day", "in/2026-01-31.txt")]


def test_locations_do_not_tell_where_the_machine_keeps_them(
    root: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = tmp_path_factory.mktemp("other") / "x.txt"
    other.write_text("text", encoding="utf-8")
    _, documents, _ = run(root, source("far", "text", str(other)))
    assert documents[0].location.startswith("../") and documents[0].location.endswith("other0/x.txt")


def test_a_file_that_cannot_be_opened_is_quarantined(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, origin: object) -> object:
        if path.name == "a.csv":
            raise PermissionError(13, "Permission denied")
        return iter([collect.Origin(source("t", "csv", "x"), path.name).document("row 1", text="fine")])

    monkeypatch.setitem(collect.READERS, "csv", refuse)
    _, documents, quarantine = run(root, source("tables", "csv", "in/*.csv"))
    assert [d.text for d in documents] == ["fine"]
    assert [(q.location, q.rule, q.detail) for q in quarantine] == [("in/a.csv", "unreadable", "Permission denied")]


def test_every_source_that_yields_nothing_is_named_with_its_reason(root: Path) -> None:
    (root / "in" / "bad.json").write_text("{nope", encoding="utf-8")
    (root / "in" / "header.csv").write_text("q,a\n", encoding="utf-8")
    with pytest.raises(SourceError) as caught:
        run(
            root,
            source("broken", "json", "in/bad.json"),
            source("headed", "csv", "in/header.csv"),
            source("choosy", "csv", "in/b.csv", where={"q": "no such"}),
            source("gone", "csv", "in/none*.csv"),
            source("folder", "csv", "in"),
            source("good", "csv", "in/b.csv"),
        )
    message = str(caught.value)
    for part in (
        "Source broken",
        "in/bad.json",
        "malformed",
        "line 1",
        "Source headed",
        "Source choosy",
        "Source gone",
    ):
        assert part in message
    assert "in/none*.csv" in message and "folder/*.html" in message and "good" not in message
    assert [q.source for q in read_rows(root / "out" / "quarantine.parquet", Dropped)] == ["broken"]
    assert not (root / "out" / "documents.parquet").exists()


def test_no_source_at_all_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="sources"):
        run(tmp_path)


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "sql"},
        {"kind": "csv", "query": "select 1"},
        {"kind": "pdf", "fields": {"question": "q"}},
        {"kind": "csv", "fields": {"antwort": "q"}},
        {"kind": "csv", "encoding": "utf-99"},
    ],
)
def test_a_source_that_makes_no_sense_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        Source(name="s", location="x", **wrong)


def test_two_sources_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="named 'a'"):
        Collect(sources=(source("a", "csv", "x"), source("a", "csv", "y")))
