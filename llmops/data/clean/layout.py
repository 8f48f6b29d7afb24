"""In how many pieces a cleaning is done."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pyspark.sql import Column
from pyspark.sql import functions as F

_SIGN, _HALF = np.uint64(1 << 63), np.uint64(32)


class Layout(NamedTuple):
    """Row groups of the source make parts; output files make ranges of ids; a part is cut by the ranges.

    As ids are hashes, all files get about as many documents. Each range is read from each part. With `fan` row groups
    to a part and `fan` files to a range that are `groups * files / fan²` reads; as `fan` grows with the root of the
    number of files, they grow as the number of row groups does.
    """

    groups: int  #: row groups of the source
    files: int  #: of what is kept, and of what is dropped, each for an equal range of the ids
    slices: int  #: row groups of a file, which are written one by one to save memory
    fan: int  #: row groups that make a part, and files that make a range

    @classmethod
    def of(cls, groups: int, rows: int, rows_per_file: int, slices: int) -> Layout:
        """The layout for a source of so many row groups and rows; below 1,024 files a part is one row group."""
        files = max(1, round(rows / rows_per_file))
        return cls(groups, files, slices, max(1, math.isqrt(files) // FAN))

    @property
    def parts(self) -> int:
        """Number of parts."""
        return -(-self.groups // self.fan)

    @property
    def ranges(self) -> int:
        """Number of ranges."""
        return -(-self.files // self.fan)

    def groups_of(self, part: int) -> range:
        """The row groups that make a part."""
        return range(part * self.fan, min((part + 1) * self.fan, self.groups))

    def files_of(self, number: int) -> range:
        """The files that make a range."""
        return range(number * self.fan, min((number + 1) * self.fan, self.files))

    def range_of(self, row: str) -> Column:
        """The number of the range that the id in a column of Spark's is in."""
        high = F.shiftrightunsigned(F.col(row).bitwiseXOR(F.lit(-(1 << 63))), 32)
        return F.floor(F.shiftright(high * self.files, 32) / self.fan).cast("int")

    def cut(self, rows: pl.Series) -> NDArray[np.intp]:
        """Where each range begins and the last one ends, among sorted ids."""
        files = (min(number * self.fan, self.files) for number in range(self.ranges + 1))
        return self._edges(rows, (file * self.slices for file in files))

    def slices_of(self, file: int, rows: pl.Series) -> Iterator[slice]:
        """Where each slice of a file is, among sorted ids."""
        edges = self._edges(rows, range(file * self.slices, (file + 1) * self.slices + 1))
        yield from map(slice, edges[:-1].tolist(), edges[1:].tolist())

    def _edges(self, rows: pl.Series, slices: Iterable[int]) -> NDArray[np.intp]:
        limits = [-(-(number << 32) // (self.files * self.slices)) for number in slices]
        return np.searchsorted((rows.to_numpy().view(np.uint64) ^ _SIGN) >> _HALF, limits)


FAN = (
    16  #: a part is `fan` row groups where there are `(FAN * fan)²` files: a reader opens few files, each part is small
)
