"""The texts of candidate pairs of near duplicates, gathered from the parts.

Each range of ids is read once from all parts, as in the merge. The texts that any pair needs are written to a file that
is cut by the pairs' partitions, and a reader takes its cut of each file.
"""

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
    """Return the pairs for `dedup.near`, and the function that returns their texts.

    `pairs` has the columns `row` and `first`, and is read twice. The `columns` of a text are joined by line ends.
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
        found = [_texts(rows, columns, pl.DataFrame(pl.from_arrow(part.read(work, number)))) for part in parts.values()]
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


def _texts(wanted: pl.DataFrame, columns: Sequence[str], part: pl.DataFrame) -> pl.DataFrame:
    """Return the texts of the wanted documents in this part: columns `row`, `bucket` and `text`."""
    wanted = wanted.filter(pl.col("row").is_in(part["row"].implode()))
    some = part.select(columns)[part["row"].search_sorted(wanted["row"])]
    return wanted.select("row", "bucket", some.select(text=pl.concat_str(*columns, separator="\n")).to_series())
