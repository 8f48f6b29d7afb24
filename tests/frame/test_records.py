"""Records: stable ids, and rows that come back as they were written."""

from pathlib import Path

from llmops.frame.records import Document, content_id, read_rows, write_rows


def test_ids_tell_parts_apart() -> None:
    assert content_id("ab", "c") != content_id("a", "bc")
    assert content_id("a") == content_id("a")
    assert content_id("\ud800")  # a lone surrogate, as broken files yield


def test_rows_come_back(tmp_path: Path) -> None:
    rows = [Document(id=str(i), source="s", location="f", position=f"row {i}", text="naïve ☂") for i in range(3)]
    assert write_rows(tmp_path / "new" / "x.parquet", rows, Document) == 3
    assert read_rows(tmp_path / "new" / "x.parquet", Document) == rows
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["x.parquet"]
