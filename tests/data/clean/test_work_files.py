"""A work file that is missing or damaged is named, whatever reads it."""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmops.data.clean.work_files import TableFile, WorkError, WorkFiles

TABLE = pa.table({"text": [f"line {number}" for number in range(1000)]})


def overwritten(path: Path, start: int) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:start] + b"\xff" * 100 + data[start + 100 :])


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (Path.unlink, "is not there"),
        (lambda path: path.write_bytes(b""), "is damaged"),
        (lambda path: path.write_bytes(path.read_bytes()[:-100]), "is damaged"),
        (lambda path: overwritten(path, 4), "is damaged"),
    ],
    ids=["missing", "empty", "short", "overwritten"],
)
def test_a_missing_or_damaged_file_is_named(tmp_path: Path, damage: Callable[[Path], object], problem: str) -> None:
    pq.write_table(TABLE, tmp_path / "documents.parquet", compression="zstd")
    work_files = WorkFiles(str(tmp_path))
    file = TableFile.write(work_files, "parts/0.arrow", [TABLE])
    assert file.read_table(work_files, 0) == TABLE
    assert work_files.read_row_group("documents.parquet", 0, ["text"]) == TABLE
    damage(tmp_path / "documents.parquet")
    damage(tmp_path / "parts" / "0.arrow")
    with pytest.raises(WorkError, match=rf"documents\.parquet .*{problem}"):
        work_files.read_row_group("documents.parquet", 0, ["text"])
    with pytest.raises(WorkError, match=rf"parts/0\.arrow .*{problem}"):
        file.read_table(work_files, 0)
