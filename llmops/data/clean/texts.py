"""The texts of the pairs that may be near duplicates, brought together from the parts that they are in.

Each range of ids is read once from all parts, as the merge does, and the texts of it that any pair needs are written as
a file that is cut by the pairs' partitions: a reader takes its cut of each file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import polars as pl
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from llmops.data.clean.layout import Layout
from llmops.data.clean.work import TOLD, Cut, Work


def gathered(
    pairs: DataFrame, columns: Sequence[str], *, parts: Mapping[int, Cut], layout: Layout, buckets: int, work: Work
) -> tuple[DataFrame, Callable[[int], pl.DataFrame]]:
    """The pairs as `dedup.near` takes them, and what gives it their texts.

    Args:
        pairs: columns `row` and `first`; read twice.
        columns: what makes a text, joined by line ends.
        parts: the tidied documents.
        layout: how parts are cut.
        buckets: in how many partitions the pairs are to be.
        work: where the work files are.
    """
    pairs = pairs.select("row", "first", F.pmod("row", F.lit(buckets)).cast("int").alias("bucket"))
    wanted = pairs.select("row", "bucket").union(pairs.select("first", "bucket"))
    wanted = wanted.select("row", "bucket", layout.range_of("row").alias("range"))

    def write(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        tables = [pa.Table.from_batches([batch]) for batch in batches]
        if not tables:
            return
        rows = pl.DataFrame(pl.from_arrow(pa.concat_tables(tables))).unique().sort("row")
        number = rows["range"][0]
        found = [_found(rows, columns, pl.DataFrame(pl.from_arrow(part.read(work, number)))) for part in parts.values()]
        by_bucket = pl.concat(found).sort("row").partition_by("bucket", as_dict=True, include_key=False)
        none = found[0][:0].drop("bucket")
        yield Cut.written(
            work, f"texts/{number}.arrow", (by_bucket.get((bucket,), none) for bucket in range(buckets))
        ).told(number)

    spread = wanted.repartitionById(layout.ranges, F.col("range"))
    texts = list(Cut.collected(spread.mapInArrow(write, TOLD)).values())

    def texts_of(bucket: int) -> pl.DataFrame:
        return pl.concat(pl.DataFrame(pl.from_arrow(cut.read(work, bucket))) for cut in texts).sort("row")

    return pairs.repartitionById(buckets, F.col("bucket")), texts_of


def _found(wanted: pl.DataFrame, columns: Sequence[str], part: pl.DataFrame) -> pl.DataFrame:
    """The texts of those documents that are in this part: columns `row`, `bucket` and `text`."""
    wanted = wanted.filter(pl.col("row").is_in(part["row"].implode()))
    some = part.select(columns)[part["row"].search_sorted(wanted["row"])]
    return wanted.select("row", "bucket", some.select(text=pl.concat_str(*columns, separator="\n")).to_series())
