"""The partitioning of a cleaning: which task reads which row groups, and which ids are in which output file."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pyspark.sql import Column
from pyspark.sql import functions as F

_SIGN_BIT, _HALF_BITS = np.uint64(1 << 63), np.uint64(32)  #: of a 64-bit id


class Partitioning(NamedTuple):
    """The row groups of the source in parts, and the output files in ranges of ids.

    One task tidies one part and writes it as one table per range. Then one task per range reads its table of each part
    and writes the files of the range. Ids are hashes, so all files get about the same number of documents. There are
    `row_groups * files / fan_out²` reads. `fan_out` grows with the root of the number of files, so the reads grow
    linearly with the row groups.
    """

    row_groups: int  #: number of row groups of the source
    files: int  #: number of kept files, and of dropped files; each holds an equal share of the possible ids
    slices_per_file: int  #: row groups of a file, written one by one to save memory
    fan_out: int  #: number of row groups per part, and of files per range

    @classmethod
    def choose(cls, row_groups: int, rows: int, rows_per_file: int, slices_per_file: int) -> Partitioning:
        """Return the partitioning of a source with so many row groups and rows.

        Below 1,024 files a part is one row group.
        """
        files = max(1, round(rows / rows_per_file))
        return cls(row_groups, files, slices_per_file, max(1, math.isqrt(files) // FAN_OUT_DIVISOR))

    @property
    def part_count(self) -> int:
        """Return the number of parts."""
        return -(-self.row_groups // self.fan_out)

    @property
    def range_count(self) -> int:
        """Return the number of ranges."""
        return -(-self.files // self.fan_out)

    def get_row_groups(self, part: int) -> range:
        """Return the row groups of a part."""
        return range(part * self.fan_out, min((part + 1) * self.fan_out, self.row_groups))

    def get_files(self, range_number: int) -> range:
        """Return the files of a range."""
        return range(range_number * self.fan_out, min((range_number + 1) * self.fan_out, self.files))

    def make_range_column(self, id_column: str) -> Column:
        """Return a Spark column with the range number of each id in `id_column`."""
        high = F.shiftrightunsigned(F.col(id_column).bitwiseXOR(F.lit(-(1 << 63))), 32)
        return F.floor(F.shiftright(high * self.files, 32) / self.fan_out).cast("int")

    def find_range_edges(self, ids: pl.Series) -> NDArray[np.intp]:
        """Return the positions among sorted ids where the ranges begin, and where the last one ends."""
        files = (min(number * self.fan_out, self.files) for number in range(self.range_count + 1))
        return self._find_edges(ids, (file * self.slices_per_file for file in files))

    def find_slices(self, file: int, ids: pl.Series) -> Iterator[slice]:
        """Yield the positions of each slice of a file among sorted ids."""
        edges = self._find_edges(ids, range(file * self.slices_per_file, (file + 1) * self.slices_per_file + 1))
        yield from map(slice, edges[:-1].tolist(), edges[1:].tolist())

    def _find_edges(self, ids: pl.Series, slice_numbers: Iterable[int]) -> NDArray[np.intp]:
        bounds = [-(-(number << 32) // (self.files * self.slices_per_file)) for number in slice_numbers]
        return np.searchsorted((ids.to_numpy().view(np.uint64) ^ _SIGN_BIT) >> _HALF_BITS, bounds)


#: The fan-out is the square root of the number of files divided by this: few files per reader, and small parts.
FAN_OUT_DIVISOR = 16
