"""The partitioning of a cleaning: which ids are in which output file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pyspark.sql import Column
from pyspark.sql import functions as F

_SIGN_BIT, _HALF_BITS = np.uint64(1 << 63), np.uint64(32)  #: of a 64-bit id


class Partitioning(NamedTuple):
    """The row groups of the source, and the output files, each with its own range of ids.

    One task tidies one row group and writes it as a part with one table per file. Then one task per file reads its
    table of each part and writes the file. Ids are hashes, so all files get about the same number of documents.
    """

    row_groups: int  #: number of row groups of the source, and of parts
    files: int  #: number of kept files, and of dropped files; each holds an equal share of the possible ids
    slices_per_file: int  #: row groups of a file, written one by one to save memory

    @classmethod
    def choose(cls, row_groups: int, rows: int, rows_per_file: int, slices_per_file: int) -> Partitioning:
        """Return the partitioning of a source with so many row groups and rows."""
        return cls(row_groups, max(1, round(rows / rows_per_file)), slices_per_file)

    def make_file_column(self, id_column: str) -> Column:
        """Return a Spark column with the file number of each id in `id_column`."""
        high = F.shiftrightunsigned(F.col(id_column).bitwiseXOR(F.lit(-(1 << 63))), 32)
        return F.shiftright(high * self.files, 32).cast("int")

    def split_by_file(self, frame: pl.DataFrame) -> Iterator[pl.DataFrame]:
        """Yield the rows of each file from a frame that is sorted by its column `row`, the ids."""
        edges = self._find_edges(frame["row"], range(0, (self.files + 1) * self.slices_per_file, self.slices_per_file))
        yield from (frame[start:end] for start, end in pairwise(edges.tolist()))

    def find_slices(self, file: int, ids: pl.Series) -> Iterator[slice]:
        """Yield the positions of each slice of a file among sorted ids."""
        edges = self._find_edges(ids, range(file * self.slices_per_file, (file + 1) * self.slices_per_file + 1))
        yield from map(slice, edges[:-1].tolist(), edges[1:].tolist())

    def _find_edges(self, ids: pl.Series, slice_numbers: Iterable[int]) -> NDArray[np.intp]:
        bounds = [-(-(number << 32) // (self.files * self.slices_per_file)) for number in slice_numbers]
        return np.searchsorted((ids.to_numpy().view(np.uint64) ^ _SIGN_BIT) >> _HALF_BITS, bounds)
