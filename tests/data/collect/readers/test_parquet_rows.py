"""Parquet."""

import json
import random
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmops.config import Source
from llmops.data.collect.readers import parquet_rows
from llmops.data.collect.readers.decoding import UnreadableError
from llmops.data.collect.readers.origin import Item, Origin
from llmops.frame.records import Document
from tests.data.collect.readers.reading import get_document, read_file


def read_rows(tmp_path: Path, rows: list[dict[str, Any]], **more: Any) -> list[Item]:
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "x", row_group_size=2)
    return read_file("parquet", tmp_path, None, **more)


def test_values_of_all_types_become_text(tmp_path: Path) -> None:
    row = {
        **{"s": "x", "n": 1, "f": 1.5, "nan": float("nan"), "none": None, "yes": True},
        **{"day": date(2026, 1, 31), "at": datetime(2026, 1, 31, 12), "raw": b"caf\xc3\xa9", "tags": ["a", "b"]},
        "author": {"name": "Ana", "books": [{"title": "T"}]},
    }
    item = get_document(read_rows(tmp_path, [row]))
    assert item.position == "row 1"
    assert json.loads(item.fields) == {
        **{"s": "x", "n": "1", "f": "1.5", "nan": "", "none": "", "yes": "true"},
        **{"day": "2026-01-31", "at": "2026-01-31 12:00:00", "raw": "café", "tags": "a, b"},
        **{"author.name": "Ana", "author.books.0.title": "T"},
    }


def test_rows_of_all_groups_in_order_and_where(tmp_path: Path) -> None:
    rows = [{"q": {"text": f"Q{n}"}, "a": "A", "ok": n % 2 == 0, "unused": b"\xff"} for n in range(5)]
    items = read_rows(tmp_path, rows, fields={"question": "q.text", "answer": "a"}, where={"ok": "true"})
    assert [(i.question, i.position) if isinstance(i, Document) else None for i in items] == [
        *(("Q0", "row 1"), None),
        *(("Q2", "row 3"), None),
        ("Q4", "row 5"),
    ]


def test_the_rows_before_the_damage_are_read(tmp_path: Path) -> None:
    table = pa.Table.from_pylist([{"q": f"{n} " * 200} for n in range(3000)])
    pq.write_table(table, tmp_path / "x", row_group_size=1000, compression="zstd", use_dictionary=False)
    data = bytearray((tmp_path / "x").read_bytes())
    offset = pq.ParquetFile(tmp_path / "x").metadata.row_group(2).column(0).data_page_offset
    data[offset : offset + 200] = bytes(200)
    (tmp_path / "x").write_bytes(data)
    items, got = parquet_rows.read(tmp_path / "x", Origin(Source(name="s", kind="parquet", location="x"), "x")), 0
    with pytest.raises(UnreadableError):
        for _ in items:
            got += 1
    assert got == 2000


def test_a_row_group_is_not_read_at_once(tmp_path: Path) -> None:
    """Many programs write one group, however large the file is."""
    texts = [random.Random(n).randbytes(1 << 14).hex() for n in range(1500)]  # 48 MiB, which do not shrink
    pq.write_table(pa.table({"q": texts}), tmp_path / "x", use_dictionary=False, compression="none")
    del texts
    before = pa.total_allocated_bytes()
    items = parquet_rows.read(tmp_path / "x", Origin(Source(name="s", kind="parquet", location="x"), "x"))
    assert next(items) and pa.total_allocated_bytes() - before < 40 << 20
    items.close()


@pytest.mark.parametrize(("chars", "largest"), [(1, 1000), (1 << 20, 16)])
def test_long_texts_are_read_a_few_at_a_time(
    chars: int, largest: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes, original = [], parquet_rows._read_records
    monkeypatch.setattr(parquet_rows, "_read_records", lambda batch: sizes.append(len(batch)) or original(batch))
    texts = [str(number) + "x" * chars for number in range(2 * largest)]
    pq.write_table(pa.table({"q": texts}), tmp_path / "x")
    assert len(read_file("parquet", tmp_path, None)) == 2 * largest
    assert largest - 2 < max(sizes) <= largest
