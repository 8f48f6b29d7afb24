"""clean: tidy every document with Spark, drop duplicates; what a rule drops is kept aside with the reason.

One pass over the documents, in Arrow batches, tidies, judges and hashes them; only numbers are shuffled after that, to
find duplicates, and one more pass parts the kept from the dropped.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from pyspark import TaskContext
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, LongType, MapType, StringType, StructField, StructType

from llmops.config import Clean
from llmops.data import dedup, rules
from llmops.data.funnel import report
from llmops.data.ngrams import SEED
from llmops.data.spark import session
from llmops.errors import LlmopsError
from llmops.records import Document, Dropped, Row, schema, write_rows

log = logging.getLogger(__name__)

ROWS_PER_FILE = 100_000  #: about, of the files that are written
SAID = ("question", "answer", "context", "text")  #: what near duplicates share

_COLUMNS = [field.name for field in fields(Document)]
_STRINGS = MapType(StringType(), StringType())
_JSON = "coalesce(to_json(fields), '{}')"
_TIDIED = StructType(
    [StructField(name, _STRINGS if name == "fields" else StringType()) for name in (*_COLUMNS, "rule", "detail")]
    + [StructField(name, LongType()) for name in ("row", "key_1", "key_2")]
    + [StructField("bands", ArrayType(LongType()))]
)


def run(config: Clean, *, collect: Path, out: Path) -> Mapping[str, Any]:
    """Clean the documents of a collect artifact.

    Writes `documents/` and `dropped/` as Parquet, the same bytes for the same documents in whatever order, and the
    funnel, `report.md` and `funnel.png`.

    Raises:
        LlmopsError: if Java is missing, or no document is left.
    """
    work = out / ".work"
    with session(config) as spark:
        documents = spark.read.parquet(f"file://{(collect / 'documents.parquet').absolute()}")
        tidied = _kept_at(tidy(documents, config), work / "tidied")
        duplicates = _kept_at(_duplicates(tidied, config, work), work / "duplicates")
        judged = _judged(tidied, duplicates)
        counts = judged.groupBy("source", "rule").count().collect()
        _write(_documents(judged), sum(n for _, rule, n in counts if rule is None), out / "documents", Document)
        _write(_dropped(judged), sum(n for _, rule, n in counts if rule is not None), out / "dropped", Dropped)
    shutil.rmtree(work)
    funnel = report(((source, rule, n) for source, rule, n in counts), out)
    log.info("clean: kept %d of %d documents; dropped %s", funnel["kept"], funnel["in"], funnel["dropped"] or "none")
    if not funnel["kept"]:
        raise LlmopsError(
            f"Cleaning leaves none of {funnel['in']} documents: {funnel['dropped']}. "
            f"Why, row by row: {out / 'dropped'}."
        )
    return funnel


def tidy(documents: DataFrame, config: Clean) -> DataFrame:
    """The documents tidied, with `rule` and `detail` of what drops them and the hashes that tell duplicates.

    `fields` is a map here. `bands` is null for what is no near duplicate of anything: structured rows, which differ in
    a number, other wordings (`same_as`), which are wanted, short texts and dropped ones.
    """

    def batches(incoming: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in incoming:
            yield from _tidied(batch, config).to_batches()

    structured = F.when(F.col("fields") != "{}", F.from_json("fields", _STRINGS)).alias("fields")
    return documents.select(*(structured if c == "fields" else c for c in _COLUMNS)).mapInArrow(batches, _TIDIED)


def _tidied(batch: pa.RecordBatch, config: Clean) -> pa.Table:
    table = pa.Table.from_batches([batch])
    frame = pl.DataFrame(pl.from_arrow(table.drop_columns("fields")))
    tidied = [rules.tidy(frame[name], name in rules.LINE, config) for name in (*rules.LINE, *rules.PROSE)]
    structured, filled, content = _fields(batch.column("fields"), config)
    frame = rules.judged(frame.with_columns(*tidied, pl.Series(rules.HAS_FIELDS, filled)), config)
    frame = frame.drop(rules.HAS_FIELDS)
    parts = frame.select(pl.concat_str(*SAID, "same_as", separator="\x00").alias("parts"))["parts"]
    said = frame.select(pl.concat_str(*SAID, separator="\n").alias("said"))["said"]
    comparable = frame["rule"].is_null() & (frame["same_as"] == "") & ~pl.Series(filled) & (config.near_duplicates < 1)
    bands = dedup.bands(said.zip_with(comparable, pl.Series([""])))
    columns = {name: column.to_arrow().cast(pa.string()) for name, column in frame.to_dict().items()}
    columns["fields"] = structured
    columns["row"] = pa.array(_numbers(batch.column("id")))
    for name, key in zip(("key_1", "key_2"), dedup.keys(parts), strict=True):
        columns[name] = pa.array(key.to_numpy() ^ content)
    columns["bands"] = bands
    return pa.Table.from_pydict({name: columns[name] for name in _TIDIED.names})


def _fields(values: pa.MapArray, config: Clean) -> tuple[pa.MapArray, np.ndarray, np.ndarray]:
    """The tidied fields, whether a row has any that is not empty, and a hash of all of them, whatever their order."""
    offsets = values.offsets.to_numpy()
    names, texts = pl.Series(pl.from_arrow(values.keys)), pl.Series(pl.from_arrow(values.items))
    texts = rules.tidy(texts.cast(pl.String), False, config)
    hashes = (names.cast(pl.String) + "\x00" + texts).hash(SEED)
    sums = np.concatenate([np.zeros(1, np.int64), np.cumsum(hashes.reinterpret(signed=True).to_numpy())])
    full = np.concatenate([np.zeros(1, np.int64), np.cumsum((texts != "").to_numpy())])
    maps = pa.MapArray.from_arrays(values.offsets, values.keys, texts.to_arrow().cast(pa.string()))
    return maps, np.diff(full[offsets]) > 0, np.diff(sums[offsets])


def _numbers(ids: pa.Array) -> np.ndarray:
    """The ids, 16 hex digits each, as signed numbers in the same order."""
    digits = bytes.fromhex("".join(ids.to_pylist()))
    return (np.frombuffer(digits, ">u8").astype(np.uint64) ^ np.uint64(1 << 63)).view(np.int64)


def _duplicates(tidied: DataFrame, config: Clean, work: Path) -> DataFrame:
    """(row, first, rule, similarity) of all duplicates; near ones are sought among what no exact one drops."""
    good = tidied.where("rule is null")
    exact = _kept_at(dedup.exact(good), work / "exact")
    same = exact.selectExpr("row", "first", "'duplicate' as rule", "1D as similarity")
    if config.near_duplicates == 1:
        return same
    unique = good.select("row", "bands").join(exact, "row", "left_anti")
    pairs = _kept_at(dedup.candidates(unique), work / "pairs")
    texts = tidied.select("row", F.concat_ws("\n", *SAID).alias("said"))
    near = dedup.near(pairs, texts, config.near_duplicates)
    return same.unionByName(near.withColumn("rule", F.lit("near_duplicate")))


def _judged(tidied: DataFrame, duplicates: DataFrame) -> DataFrame:
    twin = F.lower(F.lpad(F.hex(F.col("first").bitwiseXOR(F.lit(-(1 << 63)))), 16, "0"))
    detail = F.when(F.col("rule") == "duplicate", F.concat(F.lit("says the same as "), twin)).otherwise(
        F.concat(F.format_string("shares %.0f %% of its word 3-grams with ", F.col("similarity") * 100), twin)
    )
    found = duplicates.select("row", F.col("rule").alias("same"), detail.alias("same_detail"))
    return tidied.join(found, "row", "left").withColumns(
        {"rule": F.coalesce("rule", "same"), "detail": F.coalesce("detail", "same_detail")}
    )


def _documents(judged: DataFrame) -> DataFrame:
    return judged.where("rule is null").withColumn("fields", F.expr(_JSON)).select("row", *_COLUMNS)


def _dropped(judged: DataFrame) -> DataFrame:
    parts = ("question", "answer", "context", "same_as", "text", "fields")
    rows = judged.where("rule is not null").withColumn("fields", F.expr(_JSON))
    rows = rows.withColumn("content", F.to_json(F.struct(*parts)))
    return rows.select("row", *(field.name for field in fields(Dropped)))


def _kept_at(rows: DataFrame, folder: Path) -> DataFrame:
    """The rows written once and read back, of which later steps read only the columns they need."""
    where = f"file://{folder.absolute()}"
    rows.write.option("compression", "lz4").parquet(where)
    return rows.sparkSession.read.schema(rows.schema).parquet(where)


def _write(rows: DataFrame, count: int, folder: Path, kind: type[Row]) -> None:
    """Write `count` rows; which file a row is in, and where, depends on nothing but the ids and the count.

    With pyarrow, since Spark's own writer lists a column's encodings in an order that changes from one JVM to the next.
    """
    folder.mkdir()
    layout = schema(kind)

    def write(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        task = TaskContext.get()
        assert task
        path = folder / f"part-{task.partitionId():05d}.parquet"
        partial = path.with_name(f".{path.name}.{task.taskAttemptId()}")
        with pq.ParquetWriter(partial, layout, compression="zstd") as file:
            for batch in batches:
                file.write_table(pa.Table.from_batches([batch]).cast(layout))
        os.replace(partial, path)
        yield pa.RecordBatch.from_pydict({"file": [path.name]})

    files = max(1, round(count / ROWS_PER_FILE))
    placed = rows.repartition(files, "row").sortWithinPartitions("row").drop("row")
    if not placed.mapInArrow(write, "file string").collect():  # Spark starts no task for what it knows to be empty
        write_rows(folder / "part-00000.parquet", [], kind)
