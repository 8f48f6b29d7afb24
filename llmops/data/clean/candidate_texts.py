"""The texts of candidate pairs of near duplicates, gathered from the parts.

One task per range of ids reads the range from all parts, as in the merge. It writes the texts that any pair needs to a
file, as one table per bucket of pairs. A task that compares a bucket of pairs reads its table of each file.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import polars as pl
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from llmops.data.clean.partitioning import Partitioning
from llmops.data.clean.work_files import REPORT_COLUMNS, TableFile, WorkFiles


def gather_texts(
    pairs: DataFrame,
    columns: Sequence[str],
    *,
    parts: Mapping[int, TableFile],
    partitioning: Partitioning,
    buckets: int,
    work_files: WorkFiles,
) -> tuple[DataFrame, Callable[[int], pl.DataFrame]]:
    """Return the pairs for `dedup.find_near_duplicates`, and the function that reads the texts of a bucket of pairs.

    `pairs` has the columns `row` and `first`, and is read twice. The `columns` of a text are joined by line ends.
    """
    pairs = pairs.select("row", "first", F.pmod("row", F.lit(buckets)).cast("int").alias("bucket"))
    wanted = pairs.select("row", "bucket").union(pairs.select("first", "bucket"))
    wanted = wanted.select("row", "bucket", partitioning.make_file_column("row").alias("file"))

    def write(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        tables = [pa.Table.from_batches([batch]) for batch in batches]
        if not tables:
            return
        rows = pl.DataFrame(pl.from_arrow(pa.concat_tables(tables))).unique().sort("row")
        number = rows["file"][0]
        tables = [part.read_table(work_files, number) for part in parts.values()]
        found = [_select_texts(rows, columns, pl.DataFrame(pl.from_arrow(table))) for table in tables]
        by_bucket = pl.concat(found).sort("row").partition_by("bucket", as_dict=True, include_key=False)
        empty = found[0][:0].drop("bucket")
        buckets_of_texts = (by_bucket.get((bucket,), empty) for bucket in range(buckets))
        yield TableFile.write(work_files, f"texts/{number}.arrow", buckets_of_texts).make_report(number)

    ranges = wanted.repartitionById(partitioning.files, F.col("file"))
    text_files = list(TableFile.collect_files(ranges.mapInArrow(write, REPORT_COLUMNS)).values())

    def read_texts(bucket: int) -> pl.DataFrame:
        tables = (file.read_table(work_files, bucket) for file in text_files)
        return pl.concat(pl.DataFrame(pl.from_arrow(table)) for table in tables).sort("row")

    return pairs.repartitionById(buckets, F.col("bucket")), read_texts


def _select_texts(wanted: pl.DataFrame, columns: Sequence[str], part: pl.DataFrame) -> pl.DataFrame:
    """Return the texts of the wanted documents in this part: columns `row`, `bucket` and `text`."""
    wanted = wanted.filter(pl.col("row").is_in(part["row"].implode()))
    some = part.select(columns)[part["row"].search_sorted(wanted["row"])]
    return wanted.select("row", "bucket", some.select(text=pl.concat_str(*columns, separator="\n")).to_series())
