"""The temporary tables of a stage. They need little memory; the rest is on the disk.

Rows are added and read as Arrow, in batches. The database sorts only numbers and names; `sort_by_rank` sorts texts by
their ranks.
"""

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa

T = TypeVar("T")

MAX_MEMORY = "512MB"  #: of the tables; the rest is on the disk
THREADS = 2  #: of the database; each needs a part of that memory
MIN_FILE_ROWS = 10_000  #: rows of each temporary file of a sort; more, if the files would be more than `MAX_FILES`
MAX_FILES = 200  #: temporary files of a sort
BATCH_ROWS = 4_096  #: rows that are read at once


def make_batches(rows: Iterable[T], size: int | None = None) -> Iterator[list[T]]:
    """Yield lists of at most `size` rows (`BATCH_ROWS` by default)."""
    remaining = iter(rows)
    while batch := list(islice(remaining, size or BATCH_ROWS)):
        yield batch


class WorkTables:
    """Tables that are deleted at the end of their context (`with`).

    If the process is killed, their files stay in the unfinished artifact's folder.

    Args:
        folder: of the tables' files.
        schemas: name → columns.
    """

    def __init__(self, folder: Path, schemas: Mapping[str, pa.Schema]) -> None:
        self._folder, self._schemas = folder, schemas
        self._database = duckdb.connect(
            config={
                "memory_limit": MAX_MEMORY, "threads": THREADS, "temp_directory": str(folder),
                "preserve_insertion_order": False,
            }
        )  # fmt: skip
        self._sorts = 0
        for name, columns in schemas.items():
            self.replace(name, columns.empty_table())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._database.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def replace(self, table: str, rows: pa.Table) -> None:
        """Create a table of `rows`; an existing table of that name is replaced."""
        self._database.register("rows", rows)
        self._database.execute(f"CREATE OR REPLACE TABLE {table} AS FROM rows")
        self._database.unregister("rows")

    def add(self, table: str, rows: Sequence[dict[str, Any]]) -> None:
        """Append rows to a table that has a schema."""
        if rows:
            self._database.register("rows", pa.Table.from_pylist(rows, self._schemas[table]))
            self._database.execute(f"INSERT INTO {table} FROM rows")
            self._database.unregister("rows")

    def execute(self, statement: str) -> None:
        """Run a statement that returns no rows."""
        self._database.execute(statement)

    def read_batches(self, query: str) -> Iterator[pa.RecordBatch]:
        """Yield the rows of a query in batches. Meanwhile other queries may run and rows may be appended."""
        with self._database.cursor() as cursor:
            yield from cursor.sql(query).to_arrow_reader(BATCH_ROWS)

    def read_rows(self, query: str) -> Iterator[dict[str, Any]]:
        """Yield the rows of a query one by one."""
        for batch in self.read_batches(query):
            yield from batch.to_pylist()

    def read_frame(self, query: str) -> pl.DataFrame:
        """Return all rows of a query at once: only for rows of a few numbers."""
        with self._database.cursor() as cursor:
            found = pl.from_arrow(cursor.sql(query).to_arrow_table())
        assert isinstance(found, pl.DataFrame)
        return found

    def count_rows(self, table: str) -> int:
        """Return the number of rows of a table."""
        return next(int(row["n"]) for row in self.read_rows(f"SELECT count(*) AS n FROM {table}"))

    def sort_by_rank(self, batches: Iterable[pa.RecordBatch], count: int) -> Iterator[pa.Table]:
        """Yield rows in the order of their column `rank`, in tables that need little memory."""
        self._sorts += 1
        return sort_by_rank(batches, count, self._folder / f"sort-{self._sorts}")

    def read_ranked(self, query: str, count: int) -> Iterator[pa.Table]:
        """Yield the rows of a query as tables, in the order of its column `rank`, whose numbers are below `count`.

        The database would sort 100,000 rows at once, too many for the memory if their texts are long.
        """
        return self.sort_by_rank(self.read_batches(query), count)

    def read_ranked_rows(self, query: str, count: int) -> Iterator[dict[str, Any]]:
        """Yield the rows of `read_ranked` one by one."""
        for table in self.read_ranked(query, count):
            yield from (row for batch in table.to_batches(BATCH_ROWS) for row in batch.to_pylist())


def sort_by_rank(batches: Iterable[pa.RecordBatch], count: int, folder: Path) -> Iterator[pa.Table]:
    """Yield rows in the order of their column `rank`, a number below `count`, in tables that need little memory.

    The rows are divided into temporary files by their rank. Then each file is sorted by itself.
    """
    size = max(MIN_FILE_ROWS, -(-count // MAX_FILES))
    paths = [folder / str(number) for number in range(-(-count // size))]
    if len(paths) == 1:
        yield pa.Table.from_batches(batches).sort_by("rank")
    if len(paths) < 2:
        return
    folder.mkdir(parents=True)
    with ExitStack() as stack:
        files: dict[int, pa.ipc.RecordBatchStreamWriter] = {}
        for batch in batches:
            batch = batch.sort_by("rank")
            number = batch.column("rank").to_numpy() // size
            for at in np.unique(number).tolist():
                low, high = np.searchsorted(number, [at, at + 1]).tolist()
                if at not in files:
                    files[at] = stack.enter_context(pa.ipc.new_stream(str(paths[at]), batch.schema))
                files[at].write_batch(batch.slice(low, high - low))
    for path in paths:
        with pa.OSFile(str(path)) as file, pa.ipc.open_stream(file) as reader:
            table = reader.read_all()
        path.unlink()
        yield table.sort_by("rank")
    folder.rmdir()
