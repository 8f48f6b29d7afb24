"""clean: tidy every document with Spark; what a rule drops is kept aside with the reason."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from pyspark import StorageLevel
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from llmops.config import Clean
from llmops.data import rules
from llmops.data.spark import session
from llmops.errors import LlmopsError
from llmops.records import Document, Dropped

log = logging.getLogger(__name__)


def run(config: Clean, *, collect: Path, out: Path) -> Mapping[str, Any]:
    """Clean the documents of a collect artifact.

    Writes `documents/` and `dropped/` as Parquet, sorted by id, the same bytes for the same input.

    Raises:
        LlmopsError: if Java is missing, or no document is left.
    """
    with session(config) as spark:
        judged = judge(spark.read.parquet(f"file://{(collect / 'documents.parquet').absolute()}"), config)
        judged.persist(StorageLevel.MEMORY_AND_DISK)
        counts = {row["rule"]: row["count"] for row in judged.groupBy("verdict.rule").count().collect()}
        _write(judged.where("verdict is null").select(_columns(Document)), out / "documents")
        _write(_dropped(judged), out / "dropped")
        judged.unpersist()
    kept = counts.pop(None, 0)
    dropped = dict(sorted(counts.items()))
    read = kept + sum(dropped.values())
    log.info("clean: kept %d of %d documents; dropped %s", kept, read, dropped or "none")
    if not kept:
        raise LlmopsError(f"Cleaning leaves none of {read} documents: {dropped}. Why, row by row: {out / 'dropped'}.")
    return {"in": read, "kept": kept, "dropped": dropped}


def judge(documents: DataFrame, config: Clean) -> DataFrame:
    """The cleaned documents with a column `verdict`: null, or the rule and detail by which each is dropped.

    Of documents that say the same, the one with the smallest id is kept.
    """
    tidy = documents.withColumns(rules.cleaned(config))
    first = tidy.withColumns({"own": rules.verdict(config), "same": rules.same()})
    survivor = F.min(F.when(F.col("own").isNull(), F.col("id"))).over(Window.partitionBy("same"))
    duplicate = F.when(
        F.col("own").isNull() & (F.col("id") != survivor),
        F.struct(F.lit("duplicate").alias("rule"), F.concat(F.lit("says the same as "), survivor).alias("detail")),
    )
    return first.withColumn("verdict", F.coalesce(F.col("own"), duplicate)).drop("own", "same")


def _dropped(judged: DataFrame) -> DataFrame:
    content = F.to_json(F.struct("question", "answer", "context", "same_as", "text", "fields"))
    rows = judged.where("verdict is not null")
    return rows.withColumns(
        {"rule": F.col("verdict.rule"), "detail": F.col("verdict.detail"), "content": content}
    ).select(_columns(Dropped))


def _write(rows: DataFrame, folder: Path) -> None:
    rows.orderBy("id").write.mode("overwrite").parquet(f"file://{folder.absolute()}")
    parts = sorted(folder.glob("part-*.parquet"))
    for number, part in enumerate(parts):  # Spark names them at random, which would change the artifact's file hashes
        part.rename(folder / f"part-{number:05d}.parquet")
    for extra in (*folder.glob(".*.crc"), *folder.glob("_SUCCESS")):
        extra.unlink()


def _columns(kind: type[Document] | type[Dropped]) -> list[str]:
    return [field.name for field in fields(kind)]
