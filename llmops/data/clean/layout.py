"""The partitioning of a cleaning."""

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
    """The layout: row groups of the source form parts, output files form ranges of ids; parts are cut by range.

    Ids are hashes, so all files get about the same number of documents. Each range is read from each part. With `fan`
    row groups per part and `fan` files per range that takes `groups * files / fan²` reads. `fan` grows with the root of
    the number of files, so the reads grow linearly with the row groups.
    """

    groups: int  #: row groups of the source
    files: int  #: kept files, and dropped files; each for an equal range of ids
    slices: int  #: row groups per file, written one by one to save memory
    fan: int  #: row groups per part, and files per range

    @classmethod
    def of(cls, groups: int, rows: int, rows_per_file: int, slices: int) -> Layout:
        """Return the layout of a source with so many row groups and rows. Below 1,024 files a part is one row group."""
        files = max(1, round(rows / rows_per_file))
        return cls(groups, files, slices, max(1, math.isqrt(files) // FAN))

    @property
    def parts(self) -> int:
        """Return the number of parts."""
        return -(-self.groups // self.fan)

    @property
    def ranges(self) -> int:
        """Return the number of ranges."""
        return -(-self.files // self.fan)

    def groups_of(self, part: int) -> range:
        """Return the row groups of a part."""
        return range(part * self.fan, min((part + 1) * self.fan, self.groups))

    def files_of(self, number: int) -> range:
        """Return the files of a range."""
        return range(number * self.fan, min((number + 1) * self.fan, self.files))

    def range_of(self, row: str) -> Column:
        """Return the range number of the id in a Spark column."""
        high = F.shiftrightunsigned(F.col(row).bitwiseXOR(F.lit(-(1 << 63))), 32)
        return F.floor(F.shiftright(high * self.files, 32) / self.fan).cast("int")

    def cut(self, rows: pl.Series) -> NDArray[np.intp]:
        """Return the positions where the ranges begin, and where the last one ends, among sorted ids."""
        files = (min(number * self.fan, self.files) for number in range(self.ranges + 1))
        return self._edges(rows, (file * self.slices for file in files))

    def slices_of(self, file: int, rows: pl.Series) -> Iterator[slice]:
        """Yield the positions of each slice of a file, among sorted ids."""
        edges = self._edges(rows, range(file * self.slices, (file + 1) * self.slices + 1))
        yield from map(slice, edges[:-1].tolist(), edges[1:].tolist())

    def _edges(self, rows: pl.Series, slices: Iterable[int]) -> NDArray[np.intp]:
        limits = [-(-(number << 32) // (self.files * self.slices)) for number in slices]
        return np.searchsorted((rows.to_numpy().view(np.uint64) ^ _SIGN) >> _HALF, limits)


FAN = 16  #: a part has `fan` row groups if there are `(FAN * fan)²` files: few files per reader, small parts
