"""clean: tidy every document with Spark, drop duplicates; what a rule drops is kept aside with the reason.

Texts never pass through Spark's JVM, which would cost more than everything that is done to them. Its workers read each
row group of the documents, tidy, judge and hash it and write it as a part, sorted by id. Spark finds the duplicates
among numbers alone. The workers then merge the parts, a range of ids at a time, into the kept and the dropped.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyspark import TaskContext
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from llmops.config import Clean
from llmops.data.clean import dedup, rules
from llmops.data.clean.funnel import write_funnel
from llmops.data.spark import BATCH, session
from llmops.data.text.ngrams import SEED
from llmops.errors import LlmopsError
from llmops.records import Document, Dropped, Row, schema

log = logging.getLogger(__name__)

ROWS_PER_FILE = 100_000  #: about, of the documents that come in
TEXT_COLUMNS = ("question", "answer", "context", "text")  #: what near duplicates share

_COLUMNS = [field.name for field in fields(Document)]
_CONTENT = ("question", "answer", "context", "same_as", "text", "fields")
_NUMBERS = "row long, part long, key_1 long, key_2 long, bands array<long>"
_SIGN, _HALF = np.uint64(1 << 63), np.uint64(32)


class Layout(NamedTuple):
    """Where things are, and in how many pieces."""

    source: Path  #: the documents that come in
    out: Path  #: the folder of what is kept and dropped
    files: int  #: number of files of what is kept, and of what is dropped, each for an equal range of the ids; as these
    #: are hashes, all files get about as many documents
    slices: int  #: row groups of a file, which are written one by one

    @property
    def parts(self) -> Path:
        """The tidied documents, a file for each row group of the source."""
        return self.out / ".work" / "parts"

    @property
    def numbers(self) -> Path:
        """What tells duplicates, of the documents that no rule drops."""
        return self.out / ".work" / "numbers"


def run(config: Clean, *, collect: Path, out: Path) -> Mapping[str, Any]:
    """Clean the documents of a collect artifact.

    Writes `documents/` and `dropped/` as Parquet, the same bytes for the same documents in whatever order, and the
    funnel, `report.md` and `funnel.png`.

    Raises:
        LlmopsError: if Java is missing, or no document is left.
    """
    source = (collect / "documents.parquet").absolute()
    documents = pq.read_metadata(source)
    files = max(1, round(documents.num_rows / ROWS_PER_FILE))
    layout = Layout(source, out.absolute(), files, max(1, ROWS_PER_FILE // BATCH))
    for folder in (layout.parts, layout.numbers, out / "documents", out / "dropped"):
        folder.mkdir(parents=True)
    with session(config) as spark:
        _write_tidied(spark, max(1, documents.num_row_groups), layout, config)
        counts = _write_out(_duplicates(spark, layout, config), layout)
    shutil.rmtree(out / ".work")
    funnel = write_funnel(counts, out)
    log.info("clean: kept %d of %d documents; dropped %s", funnel["kept"], funnel["in"], funnel["dropped"] or "none")
    if not funnel["kept"]:
        raise LlmopsError(
            f"Cleaning leaves none of {funnel['in']} documents: {funnel['dropped']}. "
            f"Why, row by row: {out / 'dropped'}."
        )
    return funnel


def _write_tidied(spark: SparkSession, groups: int, layout: Layout, config: Clean) -> None:
    """Write each row group's documents, tidied, and the numbers of those that no rule drops."""

    def write(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        source = pq.ParquetFile(layout.source)
        for part in (number for batch in batches for number in batch.column("id").to_pylist()):
            if part < source.num_row_groups:
                documents = source.read_row_group(part, columns=_COLUMNS, use_threads=False)
                tidied, numbers = tidy(pl.DataFrame(pl.from_arrow(documents)), config)
                with _replacing(layout.parts / f"{part}.arrow") as path:
                    tidied.write_ipc(path, compression="uncompressed")
                numbers = numbers.append_column("part", pa.repeat(pa.scalar(part, pa.int64()), len(numbers)))
                with _replacing(layout.numbers / f"{part}.parquet") as path:
                    pq.write_table(numbers, path, compression="none", use_dictionary=False)
            yield pa.RecordBatch.from_pydict({"part": [part]})

    spark.range(0, groups, 1, groups).mapInArrow(write, "part long").collect()


def tidy(documents: pl.DataFrame, config: Clean) -> tuple[pl.DataFrame, pa.Table]:
    """The tidied documents, and the numbers by which the duplicates among them are found.

    The documents are sorted by `row`, which is the id as a number, and have the `rule` and `detail` of what drops them.
    The numbers are `row`, `key_1`, `key_2` and `bands`, of the documents that no rule drops. `bands` is null for those
    that are never near duplicates: structured rows, where one number is all the difference, other wordings (`same_as`),
    which are wanted, and short texts.
    """
    tidied = [rules.tidy(documents[name], name in rules.LINE, config) for name in (*rules.LINE, *rules.PROSE)]
    structured, filled, content = _tidied_fields(documents["fields"], config)
    columns = [pl.Series("row", _ids_as_numbers(documents["id"])), pl.Series("content", content)]
    frame = documents.with_columns(*tidied, structured, *columns, pl.Series(rules.HAS_FIELDS, filled)).sort("row")
    frame = rules.judged(frame, config)
    good = frame.filter(pl.col("rule").is_null())
    keys = dedup.keys(good.select(pl.concat_str(*TEXT_COLUMNS, "same_as", separator="\x00").alias("parts"))["parts"])
    numbers = {"row": good["row"].to_arrow()}
    for name, key in zip(("key_1", "key_2"), keys, strict=True):
        numbers[name] = pa.array(key.to_numpy() ^ good["content"].to_numpy())
    if config.near_duplicates < 1:
        comparable = (good["same_as"] == "") & ~good[rules.HAS_FIELDS]
        texts = good.select(pl.concat_str(*TEXT_COLUMNS, separator="\n").alias("texts"))["texts"]
        numbers["bands"] = dedup.bands(texts.zip_with(comparable, pl.Series([""])))
    return frame.drop("content", rules.HAS_FIELDS), pa.table(numbers)


def _tidied_fields(values: pl.Series, config: Clean) -> tuple[pl.Series, NDArray[np.bool_], NDArray[np.int64]]:
    """Of each row: its fields tidied, whether any of them is not empty, and a hash of all, whatever their order."""
    filled, content = np.zeros(len(values), bool), np.zeros(len(values), np.int64)
    rows = (values != "{}").arg_true()
    if not len(rows):
        return values, filled, content
    maps: list[dict[str, str]] = [json.loads(value) for value in values.gather(rows)]
    names = pl.Series([name for fields in maps for name in fields], dtype=pl.String)
    texts = pl.Series([text for fields in maps for text in fields.values()], dtype=pl.String)
    texts = rules.tidy(texts, False, config)
    at = np.repeat(rows.to_numpy(), [len(fields) for fields in maps])
    np.add.at(content, at, (names + "\x00" + texts).hash(SEED).reinterpret(signed=True).to_numpy())
    filled[at[(texts != "").to_numpy()]] = True
    plain = iter(texts)
    tidied = [json.dumps({name: next(plain) for name in fields}, ensure_ascii=False) for fields in maps]
    return values.scatter(rows, pl.Series(tidied, dtype=pl.String)), filled, content


def _ids_as_numbers(ids: pl.Series) -> NDArray[np.int64]:
    """The ids, 16 hex digits each, as signed numbers in the same order."""
    digits = bytes.fromhex("".join(ids))
    return (np.frombuffer(digits, ">u8").astype(np.uint64) ^ _SIGN).view(np.int64)


def _duplicates(spark: SparkSession, layout: Layout, config: Clean) -> DataFrame:
    """All duplicates, as (row, first, similarity); the similarity of an exact duplicate is null.

    Near duplicates are sought only among the documents that are no exact duplicates.
    """
    good = spark.read.schema(_NUMBERS).parquet(f"file://{layout.numbers}")
    exact = dedup.exact(good)
    same = exact.selectExpr("row", "first", "CAST(NULL AS DOUBLE) AS similarity")
    if config.near_duplicates == 1:
        return same
    work = layout.out / ".work"
    same = _written(same, work / "exact")
    unique = good.select("row", "bands").join(same, "row", "left_anti")
    pairs = dedup.candidates(unique)
    pairs = pairs.join(good.select("row", "part"), "row")
    pairs = pairs.join(good.select(F.col("row").alias("first"), F.col("part").alias("first_part")), "first")

    def texts_of(rows: pl.DataFrame) -> pl.Series:
        return _texts_of(rows, layout)

    return same.unionByName(dedup.near(_written(pairs, work / "pairs"), texts_of, config.near_duplicates))


def _texts_of(rows: pl.DataFrame, layout: Layout) -> pl.Series:
    """The tidied texts of documents given as (row, part): their text columns, joined by line ends."""
    texts = []
    for (part,), some in rows.with_row_index("at").group_by("part"):
        tidied = _read_part(layout.parts / f"{part}.arrow")
        found = tidied.select(TEXT_COLUMNS)[tidied["row"].search_sorted(some["row"])]
        texts.append(some.select("at", texts=found.select(pl.concat_str(*TEXT_COLUMNS, separator="\n")).to_series()))
    return pl.concat(texts).sort("at")["texts"] if texts else pl.Series([], dtype=pl.String)


def _read_part(path: Path) -> pl.DataFrame:
    """A part, mapped into memory, so that only the columns and rows that are used are read."""
    return pl.DataFrame(pl.from_arrow(pa.ipc.open_file(pa.memory_map(str(path))).read_all()))


def _written(rows: DataFrame, folder: Path) -> DataFrame:
    """The rows, written to `folder` and read back from there, so that Spark computes them only once."""
    where = f"file://{folder.absolute()}"
    rows.write.option("compression", "lz4").parquet(where)
    return rows.sparkSession.read.schema(rows.schema).parquet(where)


def _write_out(duplicates: DataFrame, layout: Layout) -> list[tuple[str, str | None, int]]:
    """Write what is kept and what is dropped; returns the numbers of each source and rule (None: kept)."""

    def write(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        found = pl.DataFrame(pl.from_arrow(pa.Table.from_batches(list(batches))))
        file, found = found["file"][0], _rules_and_details(found.drop("file").drop_nulls("row"))
        name = f"part-{file:05d}.parquet"
        counts = []
        with (
            _parquet_writer(layout.out / "documents" / name, Document) as kept,
            _parquet_writer(layout.out / "dropped" / name, Dropped) as dropped,
        ):
            for judged in _slices(file, layout):
                judged = judged.join(found, "row", "left", maintain_order="left").with_columns(
                    pl.coalesce("rule", "duplicate_rule"), pl.coalesce("detail", "duplicate_detail")
                )
                counts.append(judged.group_by("source", "rule").len("n"))
                good = pl.col("rule").is_null()
                content = pl.struct(_CONTENT).struct.json_encode().alias("content")
                _write_rows(kept, judged.filter(good))
                _write_rows(dropped, judged.filter(~good).with_columns(content))
        yield from pl.concat(counts).cast({"n": pl.Int64}).to_arrow(compat_level=pl.CompatLevel.oldest()).to_batches()

    high = F.shiftrightunsigned(F.col("row").bitwiseXOR(F.lit(-(1 << 63))), 32)
    files = duplicates.sparkSession.range(0, layout.files).selectExpr("id AS file")  # a task for each, come what may
    found = duplicates.withColumn("file", F.shiftright(high * layout.files, 32))
    found = files.unionByName(found, allowMissingColumns=True).repartitionById(layout.files, F.col("file").cast("int"))
    counts = found.mapInArrow(write, "source string, rule string, n long").collect()
    return [(row.source, row.rule, row.n) for row in counts]


def _slices(file: int, layout: Layout) -> Iterator[pl.DataFrame]:
    """The tidied documents of one output file, slice by slice to save memory, each sorted by `row`."""
    parts = [_read_part(path) for path in layout.parts.glob("*.arrow")]
    slices = range(file * layout.slices, (file + 1) * layout.slices + 1)
    limits = [-(-(number << 32) // (layout.files * layout.slices)) for number in slices]
    edges = [np.searchsorted((part["row"].to_numpy().view(np.uint64) ^ _SIGN) >> _HALF, limits) for part in parts]
    for number in range(layout.slices):
        some = (part[edge[number] : edge[number + 1]] for part, edge in zip(parts, edges, strict=True))
        yield pl.concat(some).sort("row")


def _rules_and_details(duplicates: pl.DataFrame) -> pl.DataFrame:
    """(row, duplicate_rule, duplicate_detail): the rule that drops each duplicate, and what it duplicates, in words."""
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


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A path to write to, which replaces `path` at the end.

    It is the attempt's own, since Spark may run two attempts of one task at once.
    """
    task = TaskContext.get()
    assert task
    partial = path.with_name(f".{path.name}.{task.taskAttemptId()}")
    yield partial
    os.replace(partial, path)


@contextmanager
def _parquet_writer(path: Path, kind: type[Row]) -> Iterator[pq.ParquetWriter]:
    """A Parquet file to write to, which replaces `path` at the end.

    It is pyarrow's: Spark's own writer lists a column's encodings in an order that differs between JVMs, so that the
    same rows would not give the same bytes.
    """
    with _replacing(path) as partial, pq.ParquetWriter(partial, schema(kind), compression="zstd") as file:
        yield file


def _write_rows(file: pq.ParquetWriter, rows: pl.DataFrame) -> None:
    if len(rows):
        table = rows.select(file.schema.names).to_arrow(compat_level=pl.CompatLevel.oldest())
        file.write_table(table.cast(file.schema).combine_chunks())
