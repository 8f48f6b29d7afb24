"""row_file: the same rows give the same bytes, however they come, and a broken write leaves nothing."""

from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmops.data import row_file
from llmops.data.row_file import RowFile

SCHEMA = pa.schema([pa.field("a", pa.string(), nullable=False), pa.field("b", pa.string(), nullable=False)])


def write(path: Path, rows: list[str], cuts: list[int]) -> bytes:
    edges = [0, *sorted({min(cut, len(rows)) for cut in cuts}), len(rows)]
    with RowFile(path, SCHEMA) as out:
        for start, end in zip(edges, edges[1:], strict=False):
            part = rows[start:end]
            out.add(pa.table({"b": pa.array(["é"] * len(part), pa.string()), "a": pa.array(part, pa.string())}))
    assert out.row_count == len(rows)
    return path.read_bytes()


@given(st.lists(st.text("xyzé", max_size=12), max_size=40), st.lists(st.integers(0, 40), max_size=8))
@settings(max_examples=30, deadline=None)
def test_how_rows_are_cut_does_not_show(rows: list[str], cuts: list[int]) -> None:
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_file, "GROUP_ROWS", 7)
        patch.setattr(row_file, "GROUP_BYTES", 50)
        path = Path(folder) / "rows.parquet"
        once = write(path, rows, [])
        assert write(path, rows, cuts) == once
        assert pq.read_table(path)["a"].to_pylist() == rows
        groups = pq.ParquetFile(path)
        sizes = [groups.read_row_group(n)["a"].to_pylist() for n in range(groups.num_row_groups)]
        for group in sizes:
            assert 0 < len(group) <= 7 and sum(len(f"{row}é".encode()) for row in group[:-1]) < 50
        assert all(len(g) == 7 or sum(len(f"{row}é".encode()) for row in g) >= 50 for g in sizes[:-1])


def test_a_broken_write_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    before = write(path, ["x"], [])
    with pytest.raises(KeyboardInterrupt), RowFile(path, SCHEMA) as out:
        out.add(pa.table({"a": ["y"], "b": ["y"]}))
        raise KeyboardInterrupt
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
