"""The merge of the parts into kept and dropped files, one range of ids at a time."""

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

from llmops.data.clean.layout import Layout
from llmops.data.clean.work import Cut, Work, WorkError
from llmops.frame.artifacts import file_sha256
from llmops.frame.records import Document, Dropped, schema

KINDS = {"documents": schema(Document), "dropped": schema(Dropped)}

_CONTENT = ("question", "answer", "context", "same_as", "text", "fields")
_LISTS = {"source": pa.list_(pa.string()), "rule": pa.list_(pa.string()), "n": pa.list_(pa.int64())}
_FIELDS = pa.schema({"name": pa.string(), "bytes": pa.int64(), "sha256": pa.string(), **_LISTS})
_TOLD = "name string, bytes long, sha256 string, source array<string>, rule array<string>, n array<long>"


def merged(
    duplicates: DataFrame, parts: Mapping[int, Cut], layout: Layout, work: Work, out: Path
) -> Counter[tuple[str, str | None]]:
    """Write kept and dropped documents to `documents/` and `dropped/` of `out`, and check that all are there.

    Returns:
        The number of documents of each source and rule (None: kept).

    Raises:
        WorkError: if a file is missing, or differs from what its task wrote.
    """

    def write(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        found = pl.DataFrame(pl.from_arrow(pa.Table.from_batches(list(batches))))
        number, found = found["number"][0], _rules_and_details(found.drop("number").drop_nulls("row"))
        frames = [pl.DataFrame(pl.from_arrow(part.read(work, number))) for _, part in sorted(parts.items())]
        for file in layout.files_of(number):
            told = _write_file(file, frames, found, layout, work)
            yield pa.RecordBatch.from_pylist(told, _FIELDS)

    # One task per range, even for a range without duplicates.
    ranges = duplicates.sparkSession.range(0, layout.ranges).selectExpr("CAST(id AS INT) AS number")
    found = ranges.unionByName(duplicates.withColumn("number", layout.range_of("row")), allowMissingColumns=True)
    found = found.repartitionById(layout.ranges, F.col("number"))
    written = {row.name: row for row in found.mapInArrow(write, _TOLD).collect()}
    names = [f"{kind}/{_name(file)}" for kind in KINDS for file in range(layout.files)]
    with ThreadPoolExecutor(8 if work.remote else 1) as pool:
        list(pool.map(lambda name: _fetch(name, written.get(name), work, out), names))
    counts: Counter[tuple[str, str | None]] = Counter()
    for row in written.values():
        counts.update({(source, rule): n for source, rule, n in zip(row.source, row.rule, row.n, strict=True)})
    return counts


def _name(file: int) -> str:
    return f"part-{file:05d}.parquet"


def _fetch(name: str, told: Any, work: Work, out: Path) -> None:
    if told is None:
        raise WorkError(f"No task wrote {name}. Run again.")
    work.fetch(name, out / name)
    with (out / name).open("rb") as handle:
        os.fsync(handle.fileno())
    size = (out / name).stat().st_size
    if (size, file_sha256(out / name)) != (told.bytes, told.sha256):
        raise WorkError(f"{work.address(name).shown} is not what was written: {size} of {told.bytes} bytes. Run again.")
    if (rows := pq.read_metadata(out / name).num_rows) != sum(told.n):
        raise WorkError(f"{work.address(name).shown} holds {rows} documents instead of {sum(told.n)}. Run again.")


def _write_file(
    file: int, parts: list[pl.DataFrame], duplicates: pl.DataFrame, layout: Layout, work: Work
) -> list[dict[str, Any]]:
    """Write one kept and one dropped file. Return a row about each for the driver.

    pyarrow writes them: Spark's writer lists a column's encodings in an order that differs between JVMs, so that the
    same rows would not give the same bytes.
    """
    names, counts = {kind: f"{kind}/{_name(file)}" for kind in KINDS}, []
    with ExitStack() as whole:
        paths = {kind: whole.enter_context(work.writing(name)) for kind, name in names.items()}
        with ExitStack() as stack:
            kept, dropped = (
                stack.enter_context(pq.ParquetWriter(paths[kind], columns, compression="zstd"))
                for kind, columns in KINDS.items()
            )
            slices = [layout.slices_of(file, part["row"]) for part in parts]
            for at in zip(*slices, strict=True):
                judged = pl.concat(part[some] for part, some in zip(parts, at, strict=True)).sort("row")
                judged = judged.join(duplicates, "row", "left", maintain_order="left").with_columns(
                    pl.coalesce("rule", "duplicate_rule"), pl.coalesce("detail", "duplicate_detail")
                )
                counts.append(judged.group_by("source", "rule").len("n"))
                good = pl.col("rule").is_null()
                content = pl.struct(_CONTENT).struct.json_encode().alias("content")
                _write_rows(kept, judged.filter(good))
                _write_rows(dropped, judged.filter(~good).with_columns(content))
        n = pl.concat(counts).group_by("source", "rule").sum()
        found = {"documents": n.filter(pl.col("rule").is_null()), "dropped": n.drop_nulls("rule")}
        return [
            {"name": names[kind], "bytes": path.stat().st_size, "sha256": file_sha256(path)}
            | found[kind].to_dict(as_series=False)
            for kind, path in paths.items()
        ]


def _write_rows(file: pq.ParquetWriter, rows: pl.DataFrame) -> None:
    if len(rows):
        table = rows.select(file.schema.names).to_arrow(compat_level=pl.CompatLevel.oldest())
        file.write_table(table.cast(file.schema).combine_chunks())


def _rules_and_details(duplicates: pl.DataFrame) -> pl.DataFrame:
    near = pl.col("similarity").is_not_null()
    twin = pl.Series("twin", [f"{first + (1 << 63):016x}" for first in duplicates["first"]], dtype=pl.String)
    share = (pl.col("similarity") * 100).round(0, mode="half_away_from_zero").cast(pl.Int32)
    return duplicates.with_columns(twin).select(
        "row",
        duplicate_rule=pl.when(near).then(pl.lit("near_duplicate")).otherwise(pl.lit("duplicate")),
        duplicate_detail=pl.when(near)
        .then(pl.format("shares {} % of its word 3-grams with {}", share, "twin"))
        .otherwise(pl.format("says the same as {}", "twin")),
    )
