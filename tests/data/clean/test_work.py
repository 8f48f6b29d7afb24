"""A work file that is missing or damaged is named, whatever reads it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmops.data.clean.work import Cut, Work, WorkError

TABLE = pa.table({"text": [f"line {number}" for number in range(1000)]})


def overwritten(start: int) -> Callable[[Path], object]:
    def damage(path: Path) -> None:
        whole = path.read_bytes()
        first = start % len(whole)
        path.write_bytes(whole[:first] + b"\xff" * (len(whole) - first))

    return damage


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (Path.unlink, "is not there"),
        (lambda path: path.write_bytes(b""), "is damaged"),
        (lambda path: path.write_bytes(b"not Parquet at all"), "is damaged"),
        (overwritten(-8), "is damaged"),
        (lambda path: path.write_bytes(b"PAR1" + b"\xff" * 100 + path.read_bytes()[104:]), "is damaged"),
    ],
    ids=["missing", "empty", "other", "footer", "pages"],
)
def test_an_input_that_is_missing_or_damaged_is_named(
    tmp_path: Path, damage: Callable[[Path], object], problem: str
) -> None:
    pq.write_table(TABLE, tmp_path / "documents.parquet", compression="zstd")
    read = Work(str(tmp_path)).read_row_groups
    assert list(read("documents.parquet", [0], ["text"])) == [TABLE]
    damage(tmp_path / "documents.parquet")
    with pytest.raises(WorkError, match=rf"documents\.parquet .*{problem}"):
        list(read("documents.parquet", [0], ["text"]))


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (Path.unlink, "is not there"),
        (lambda path: path.write_bytes(b""), "is damaged"),
        (overwritten(0), "is damaged"),
        (lambda path: path.write_bytes(path.read_bytes()[:-100]), "is damaged"),
    ],
    ids=["missing", "empty", "overwritten", "short"],
)
def test_a_part_that_is_missing_or_damaged_is_named(
    tmp_path: Path, damage: Callable[[Path], object], problem: str
) -> None:
    work = Work(str(tmp_path))
    cut = Cut.written(work, "parts/0.arrow", [TABLE])
    assert cut.read(work, 0) == TABLE
    damage(tmp_path / "parts" / "0.arrow")
    with pytest.raises(WorkError, match=rf"parts/0\.arrow .*{problem}"):
        cut.read(work, 0)
