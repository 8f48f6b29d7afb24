"""The texts of the pairs that may be near duplicates, brought together from the parts that they are in.

Each part is read once, and the texts of it that any pair needs are written as a file that is cut by the pairs'
partitions: a reader takes its cut of each file, as the merge does with the parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import polars as pl
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from llmops.data.clean.layout import Layout
from llmops.data.clean.work import TOLD, Cut, Work, scratch


def gathered(
    pairs: DataFrame,
    places: DataFrame,
    columns: Sequence[str],
    *,
    parts: Mapping[int, Cut],
    layout: Layout,
    work: Work,
) -> tuple[DataFrame, Callable[[pl.DataFrame], pl.Series]]:
    """The pairs as `dedup.near` takes them, and what gives it their texts.

    Args:
        pairs: columns `row` and `first`; read twice.
        places: columns `row` and `part`, of all documents.
        columns: what makes a text, joined by line ends.
        parts: the tidied documents.
        layout: how parts are cut.
        work: where the work files are.
    """
    cores = pairs.sparkSession.sparkContext.defaultParallelism
    partitions = max(layout.ranges, cores)
    tasks = min(layout.parts, max(layout.ranges, 2 * cores))  # a task costs more than reading a part
    bucket = F.pmod("row", F.lit(partitions))
    pairs = pairs.select("row", "first", bucket.alias("bucket"))
    wanted = pairs.select("row", "bucket").union(pairs.select("first", "bucket")).join(places, "row")

    def write(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        tables = [pa.Table.from_batches([batch]) for batch in batches]
        if not tables:
            return
        rows = pl.DataFrame(pl.from_arrow(pa.concat_tables(tables))).unique()
        for (part,), some in rows.group_by("part"):
            found = _found(some.sort("row"), columns, parts[part], layout, work)
            buckets = found.partition_by("bucket", as_dict=True, include_key=False)
            cut = Cut.written(
                work, f"texts/{part}.arrow", (buckets.get((n,), found[:0].drop("bucket")) for n in range(partitions))
            )
            yield cut.told(part)

    spread = wanted.repartitionById(tasks, F.pmod("part", F.lit(tasks)).cast("int"))
    texts = list(Cut.collected(spread.mapInArrow(write, TOLD)).values())
    ready = pairs.select("row", "first", F.col("bucket").alias("part"), F.col("bucket").alias("first_part"))
    return ready.repartitionById(partitions, F.col("part").cast("int")), _Reader(work, texts)


class _Reader:
    """The texts of documents given as (row, part), where the part is a bucket; it keeps those of the last one."""

    def __init__(self, work: Work, texts: Sequence[Cut]) -> None:
        self._work, self._texts, self._last = work, texts, (-1, pl.DataFrame())

    def __call__(self, rows: pl.DataFrame) -> pl.Series:
        found = pl.Series(pl.repeat("", len(rows), eager=True))
        for (part,), some in rows.with_row_index("at").group_by("part"):
            if part != self._last[0]:
                frames = [pl.DataFrame(pl.from_arrow(cut.read(self._work, part))) for cut in self._texts]
                self._last = (part, pl.concat(frames).sort("row"))
            table = self._last[1]
            found = found.scatter(some["at"], table["text"][table["row"].search_sorted(some["row"])])
        return found


def _found(wanted: pl.DataFrame, columns: Sequence[str], part: Cut, layout: Layout, work: Work) -> pl.DataFrame:
    """The texts of documents of one part, sorted by `row`: columns `row`, `bucket` and `text`."""
    frames, edges = [], layout.cut(wanted["row"]).tolist()
    with scratch() as folder:
        there = part.fetched(work, folder)
        for number, (start, end) in enumerate(zip(edges[:-1], edges[1:], strict=True)):
            if start < end:
                some = wanted[start:end]
                tidied = pl.DataFrame(pl.from_arrow(part.read(there, number)))
                found = tidied.select(columns)[tidied["row"].search_sorted(some["row"])]
                text = found.select(pl.concat_str(*columns, separator="\n")).to_series()
                frames.append(some.select("row", "bucket", text=text))
    return pl.concat(frames)
