"""A Parquet file that is written while its rows arrive. Memory does not grow with the file."""

import os
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

GROUP_ROWS = 50_000  #: a row group is closed with this many rows,
GROUP_BYTES = 64 << 20  #: or with this much text, whichever comes first


class RowFile:
    """A writer of a Parquet file of string columns, from tables of any size.

    Use it as a context (`with`): the file appears at the end, and an exception leaves no file. The same rows give the
    same bytes, however they were divided into tables. Only one process at a time may write to a path.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.row_count = 0
        self._path, self._schema = path, schema
        self._partial = path.with_name(f".{path.name}.partial")
        self._waiting: list[pa.Table] = []
        self._waiting_rows = self._waiting_bytes = 0

    def __enter__(self) -> Self:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._writer = pq.ParquetWriter(self._partial, self._schema, compression="zstd")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            if kind is None:
                self._flush()
            self._writer.close()
            if kind is None:
                with self._partial.open("rb") as handle:
                    os.fsync(handle.fileno())
                self._partial.replace(self._path)
        finally:
            self._partial.unlink(missing_ok=True)

    def add(self, table: pa.Table) -> None:
        """Append the rows of `table`, which has the file's columns in any order."""
        table = table.select(self._schema.names).cast(self._schema)
        self.row_count += table.num_rows
        size = sum((pc.binary_length(c).to_numpy().astype(np.int64) for c in table.columns), np.zeros(table.num_rows))
        while table.num_rows:
            total = np.cumsum(size)
            full = int(np.searchsorted(total, GROUP_BYTES - self._waiting_bytes)) + 1
            take = min(full, GROUP_ROWS - self._waiting_rows, table.num_rows)
            self._waiting.append(table.slice(0, take))
            self._waiting_rows += take
            self._waiting_bytes += int(total[take - 1])
            if self._waiting_rows >= GROUP_ROWS or self._waiting_bytes >= GROUP_BYTES:
                self._flush()
            table, size = table.slice(take), size[take:]

    def _flush(self) -> None:
        if self._waiting:
            # One chunk: where a chunk ends, Parquet may end a page
            self._writer.write_table(pa.concat_tables(self._waiting).combine_chunks(), row_group_size=GROUP_ROWS)
        self._waiting, self._waiting_rows, self._waiting_bytes = [], 0, 0
