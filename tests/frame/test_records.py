"""Records: stable ids, and rows that come back as they were written."""

from pathlib import Path

from llmops.frame.records import Document, make_content_id, read_rows, write_rows


def test_ids_tell_parts_apart() -> None:
    assert make_content_id("ab", "c") != make_content_id("a", "bc")
    assert make_content_id("a") == make_content_id("a")
    assert make_content_id("\ud800")  # a lone surrogate, as broken files yield


def test_rows_come_back(tmp_path: Path) -> None:
    rows = [Document(id=str(i), source="s", location="f", position=f"row {i}", text="naïve ☂") for i in range(3)]
    assert write_rows(tmp_path / "new" / "x.parquet", rows, Document) == 3
    assert read_rows(tmp_path / "new" / "x.parquet", Document) == rows
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["x.parquet"]
