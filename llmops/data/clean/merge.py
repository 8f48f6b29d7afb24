"""The merge of the parts into kept and dropped files, one range of ids at a time.

A part is what one task wrote. It has a table for each range of ids, which becomes a file. A file is written in slices
of neighbouring ids, so that only one slice is in memory.
"""

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from llmops.data.clean.partitioning import Partitioning
from llmops.data.clean.work_files import TableFile, WorkError, WorkFiles
from llmops.frame.artifacts import compute_sha256
from llmops.frame.records import Document, DroppedRow, get_schema

OUTPUT_SCHEMAS = {"documents": get_schema(Document), "dropped": get_schema(DroppedRow)}

_CONTENT = ("question", "answer", "context", "same_as", "text", "fields")
_LISTS = {"source": pa.list_(pa.string()), "rule": pa.list_(pa.string()), "n": pa.list_(pa.int64())}
_FIELDS = pa.schema({"name": pa.string(), "bytes": pa.int64(), "sha256": pa.string(), **_LISTS})
_REPORT_COLUMNS = "name string, bytes long, sha256 string, source array<string>, rule array<string>, n array<long>"


def merge_parts(
    duplicates: DataFrame, parts: Mapping[int, TableFile], partitioning: Partitioning, work_files: WorkFiles, out: Path
) -> Counter[tuple[str, str | None]]:
    """Write kept and dropped documents to `documents/` and `dropped/` of `out`, and check that all are there.

    `duplicates` has the columns `row`, `first` and `similarity`, which is null for exact duplicates.

    Returns:
        The number of documents of each source and rule (None: kept).

    Raises:
        WorkError: if a file is missing, or differs from what its task wrote.
    """

    def write(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        rows = pl.DataFrame(pl.from_arrow(pa.Table.from_batches(list(batches))))
        file, dropped = rows["file"][0], _describe_duplicates(rows.drop("file").drop_nulls("row"))
        tables = (part.read_table(work_files, file) for _, part in sorted(parts.items()))
        tables_of_file = [pl.DataFrame(pl.from_arrow(table)) for table in tables]
        report_rows = _write_file(file, tables_of_file, dropped, partitioning, work_files)
        yield pa.RecordBatch.from_pylist(report_rows, _FIELDS)

    # One task per file, even for a file without duplicates.
    files = duplicates.sparkSession.range(0, partitioning.files).selectExpr("CAST(id AS INT) AS file")
    numbered = duplicates.withColumn("file", partitioning.make_file_column("row"))
    tasks = files.unionByName(numbered, allowMissingColumns=True)
    tasks = tasks.repartitionById(partitioning.files, F.col("file"))
    reports = {row.name: row for row in tasks.mapInArrow(write, _REPORT_COLUMNS).collect()}
    names = [f"{kind}/{_make_file_name(file)}" for kind in OUTPUT_SCHEMAS for file in range(partitioning.files)]
    with ThreadPoolExecutor(8 if work_files.remote else 1) as pool:
        list(pool.map(lambda name: _fetch(name, reports.get(name), work_files, out), names))
    counts: Counter[tuple[str, str | None]] = Counter()
    for row in reports.values():
        counts.update({(source, rule): n for source, rule, n in zip(row.source, row.rule, row.n, strict=True)})
    return counts


def _make_file_name(file: int) -> str:
    return f"part-{file:05d}.parquet"


def _fetch(name: str, report: Any, work_files: WorkFiles, out: Path) -> None:
    if report is None:
        raise WorkError(f"No task wrote {name}. Run again.")
    work_files.move_out(name, out / name)
    with (out / name).open("rb") as handle:
        os.fsync(handle.fileno())
    size, location = (out / name).stat().st_size, work_files.get_address(name).location
    if (size, compute_sha256(out / name)) != (report.bytes, report.sha256):
        raise WorkError(f"{location} is not what was written: {size} of {report.bytes} bytes. Run again.")
    if (rows := pq.read_metadata(out / name).num_rows) != sum(report.n):
        raise WorkError(f"{location} holds {rows} documents instead of {sum(report.n)}. Run again.")


def _write_file(
    file: int,
    tables_of_file: list[pl.DataFrame],
    duplicates: pl.DataFrame,
    partitioning: Partitioning,
    work_files: WorkFiles,
) -> list[dict[str, Any]]:
    """Write one kept and one dropped file. Return a row about each for the driver.

    pyarrow writes them: Spark's writer lists a column's encodings in an order that differs between JVMs, so that the
    same rows would not give the same bytes.
    """
    names, counts = {kind: f"{kind}/{_make_file_name(file)}" for kind in OUTPUT_SCHEMAS}, []
    with ExitStack() as open_files:
        paths = {kind: open_files.enter_context(work_files.create_file(name)) for kind, name in names.items()}
        with ExitStack() as stack:
            kept, dropped = (
                stack.enter_context(pq.ParquetWriter(paths[kind], columns, compression="zstd"))
                for kind, columns in OUTPUT_SCHEMAS.items()
            )
            slices = [partitioning.find_slices(file, table["row"]) for table in tables_of_file]
            for slice_of_each in zip(*slices, strict=True):
                documents = pl.concat(table[at] for table, at in zip(tables_of_file, slice_of_each, strict=True))
                documents = documents.sort("row")
                documents = documents.join(duplicates, "row", "left", maintain_order="left").with_columns(
                    pl.coalesce("rule", "duplicate_rule"), pl.coalesce("detail", "duplicate_detail")
                )
                counts.append(documents.group_by("source", "rule").len("n"))
                kept_rows = pl.col("rule").is_null()
                content = pl.struct(_CONTENT).struct.json_encode().alias("content")
                _write_rows(kept, documents.filter(kept_rows))
                _write_rows(dropped, documents.filter(~kept_rows).with_columns(content))
        n = pl.concat(counts).group_by("source", "rule").sum()
        found = {"documents": n.filter(pl.col("rule").is_null()), "dropped": n.drop_nulls("rule")}
        return [
            {"name": names[kind], "bytes": path.stat().st_size, "sha256": compute_sha256(path)}
            | found[kind].to_dict(as_series=False)
            for kind, path in paths.items()
        ]


def _write_rows(file: pq.ParquetWriter, rows: pl.DataFrame) -> None:
    if len(rows):
        table = rows.select(file.schema.names).to_arrow(compat_level=pl.CompatLevel.oldest())
        file.write_table(table.cast(file.schema).combine_chunks())


def _describe_duplicates(duplicates: pl.DataFrame) -> pl.DataFrame:
    near = pl.col("similarity").is_not_null()
    ids = [f"{first + (1 << 63):016x}" for first in duplicates["first"]]  # from the signed row number back to the id
    first_id = pl.Series("first_id", ids, dtype=pl.String)
    share = (pl.col("similarity") * 100).round(0, mode="half_away_from_zero").cast(pl.Int32)
    return duplicates.with_columns(first_id).select(
        "row",
        duplicate_rule=pl.when(near).then(pl.lit("near_duplicate")).otherwise(pl.lit("duplicate")),
        duplicate_detail=pl.when(near)
        .then(pl.format("shares {} % of its word 3-grams with {}", share, "first_id"))
        .otherwise(pl.format("says the same as {}", "first_id")),
    )
