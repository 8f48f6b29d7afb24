"""The tables that a stage works with: in little memory, and what has no room there on the disk.

Rows come and go as Arrow, some at a time. Only numbers and names are sorted by the database; texts come in the order of
their ranks (`in_order`).
"""

from __future__ import annotations

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

MEMORY = "512MB"  #: of the tables; what is more lies on the disk
THREADS = 2  #: that work on the tables: each needs some of that memory
ROWS, FILES = 10_000, 200  #: rows of a file when many are sorted, and at most how many files; or more rows
BATCH = 4_096  #: rows that are read at once


def batched(rows: Iterable[T], size: int | None = None) -> Iterator[list[T]]:
    """Rows, so many (`BATCH`) at a time."""
    remaining = iter(rows)
    while some := list(islice(remaining, size or BATCH)):
        yield some


class WorkTables:
    """Tables that are there as long as the context (`with`) that they are used in.

    What a process leaves that is killed lies in the unfinished artifact.

    Args:
        folder: where they lie if they need the disk.
        schemas: name → columns.
    """

    def __init__(self, folder: Path, schemas: Mapping[str, pa.Schema]) -> None:
        self._folder, self._schemas = folder, schemas
        self._database = duckdb.connect(
            config={
                "memory_limit": MEMORY, "threads": THREADS, "temp_directory": str(folder),
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
        """Make a table of `rows`, in the place of one of that name."""
        self._database.register("rows", rows)
        self._database.execute(f"CREATE OR REPLACE TABLE {table} AS FROM rows")
        self._database.unregister("rows")

    def add(self, table: str, rows: Sequence[dict[str, Any]]) -> None:
        """Append rows to one of those that have a schema."""
        if rows:
            self._database.register("rows", pa.Table.from_pylist(rows, self._schemas[table]))
            self._database.execute(f"INSERT INTO {table} FROM rows")
            self._database.unregister("rows")

    def execute(self, statement: str) -> None:
        """Run a statement that finds nothing."""
        self._database.execute(statement)

    def read(self, query: str) -> Iterator[pa.RecordBatch]:
        """What a query finds, batch by batch; others may be read, and rows appended, meanwhile."""
        with self._database.cursor() as cursor:
            yield from cursor.sql(query).to_arrow_reader(BATCH)

    def rows(self, query: str) -> Iterator[dict[str, Any]]:
        """What a query finds, row by row."""
        for batch in self.read(query):
            yield from batch.to_pylist()

    def frame(self, query: str) -> pl.DataFrame:
        """What a query finds, all at once: a few numbers a row."""
        with self._database.cursor() as cursor:
            found = pl.from_arrow(cursor.sql(query).to_arrow_table())
        assert isinstance(found, pl.DataFrame)
        return found

    def count(self, table: str) -> int:
        """How many rows a table has."""
        return next(int(row["n"]) for row in self.rows(f"SELECT count(*) AS n FROM {table}"))

    def sorted(self, batches: Iterable[pa.RecordBatch], count: int) -> Iterator[pa.Table]:
        """Rows in the order of their column `rank`, see `in_order`."""
        self._sorts += 1
        return in_order(batches, count, self._folder / f"sort-{self._sorts}")

    def ranked(self, query: str, count: int) -> Iterator[pa.Table]:
        """What a query finds, some at a time, in the order of its column `rank`: a number below `count`.

        The database would sort 100,000 rows at once, which are too many if their texts are long.
        """
        return self.sorted(self.read(query), count)

    def ranked_rows(self, query: str, count: int) -> Iterator[dict[str, Any]]:
        """As `ranked`, row by row."""
        for table in self.ranked(query, count):
            yield from (row for batch in table.to_batches(BATCH) for row in batch.to_pylist())


def in_order(batches: Iterable[pa.RecordBatch], count: int, folder: Path) -> Iterator[pa.Table]:
    """Rows in the order of their column `rank`, a number below `count`; so many at a time that it needs little memory.

    They are dealt out to files of successive ranks, each of which is then sorted by itself.

    Args:
        batches: the rows.
        count: how many there are.
        folder: where the files lie meanwhile.
    """
    size = max(ROWS, -(-count // FILES))
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
