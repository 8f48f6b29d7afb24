"""The stage clean: tidies every document with Spark and drops duplicates. Dropped documents are kept with the reason.

Texts never pass through Spark's JVM, which would cost more than all other work. Its workers read the documents, tidy,
judge and hash them, and write them as parts, cut by ranges of ids, keys and MinHash bands. They find duplicates by
ranges of keys and bands; Spark only gets the pairs. Then they merge the parts, one range of ids at a time, into kept
and dropped documents.
"""

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import fields
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyspark import StorageLevel
from pyspark.sql import DataFrame, SparkSession

from llmops.config import Annotate, Clean
from llmops.data.clean import dedup, rules
from llmops.data.clean.funnel import write_funnel
from llmops.data.clean.layout import Layout
from llmops.data.clean.merge import KINDS, merged
from llmops.data.clean.texts import gathered
from llmops.data.clean.work import TOLD, Cut, Work, WorkError, check_shared, mapped, scratch
from llmops.data.spark import BATCH, session, set_partitions
from llmops.data.text.comparable_texts import comparable_texts
from llmops.data.text.ngrams import SEED
from llmops.frame.errors import LlmopsError
from llmops.frame.records import Document

log = logging.getLogger(__name__)

SOURCE = "documents.parquet"
ROWS_PER_FILE = 100_000  #: approximate number of input documents per file
TEXT_COLUMNS = ("question", "answer", "text")  #: columns compared for near duplicates

_ANY = Annotate()  # no source is tested before others
_COLUMNS = [field.name for field in fields(Document)]
_SIGN = np.uint64(1 << 63)


def run(config: Clean, *, collect: Path, out: Path, annotate: Annotate = _ANY) -> Mapping[str, Any]:
    """Clean the documents of a collect artifact.

    Write `documents/` and `dropped/` as Parquet and the funnel as `report.md` and `funnel.png`. The bytes depend only
    on the documents, not on their order or the number of hosts. Among duplicates, documents of
    `annotate.test_sources` stay first.

    Raises:
        LlmopsError: if Java is missing, no document is left, or a host cannot reach the work files.
    """
    source, out = (collect / SOURCE).absolute(), out.absolute()
    documents = pq.read_metadata(source)
    layout = Layout.of(documents.num_row_groups, documents.num_rows, ROWS_PER_FILE, max(1, ROWS_PER_FILE // BATCH))
    work = Work.at(f"{config.work.rstrip('/')}/{out.name}" if config.work else str(out / ".work"), config.connection)
    for kind in KINDS:
        (out / kind).mkdir(parents=True)
    with ExitStack() as stack:
        work.clear()
        stack.callback(work.clear)
        spark = stack.enter_context(session(config))
        if not (master := str(spark.sparkContext.master)).startswith("local"):
            if not config.work:
                raise LlmopsError(
                    f"Spark runs at {master}: say by `clean.work` where its workers find the documents, a folder that "
                    "all hosts share or a place in an object store."
                )
            check_shared(spark, work)
        set_partitions(spark, config, documents.num_rows)
        work.take(source, SOURCE)
        buckets = max(layout.ranges, spark.sparkContext.defaultParallelism)
        parts = _write_tidied(spark, layout, buckets, work, config, annotate.test_sources)
        duplicates = _duplicates(spark, parts, layout, buckets, work, config, stack)
        counts = merged(duplicates, parts, layout, work, out)
    _check_complete(source, counts)
    funnel = write_funnel(((*key, number) for key, number in counts.items()), out)
    log.info("clean: kept %d of %d documents; dropped %s", funnel["kept"], funnel["in"], funnel["dropped"] or "none")
    if not funnel["kept"]:
        raise LlmopsError(
            f"Cleaning leaves none of {funnel['in']} documents: {funnel['dropped']}. "
            f"Why, row by row: {out / 'dropped'}."
        )
    return funnel


def _write_tidied(
    spark: SparkSession, layout: Layout, buckets: int, work: Work, config: Clean, tested: Sequence[str]
) -> dict[int, Cut]:
    """Write the parts: the tidied documents, one table per range, and the tables of `_numbers`."""

    def write(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for part in (number for batch in batches for number in batch.column("id").to_pylist()):
            frames: list[pl.DataFrame] = []
            numbers: list[pa.Table] = []
            with scratch() as folder:
                for group in work.read_row_groups(SOURCE, layout.groups_of(part), _COLUMNS):
                    documents, found = tidy(pl.DataFrame(pl.from_arrow(group)), config, tested)
                    frames.append(documents if layout.fan == 1 else mapped(documents, folder / str(len(frames))))
                    numbers.append(found)
                edges = [layout.cut(frame["row"]).tolist() for frame in frames]
                ranges = (
                    pl.concat(frame[at[number] : at[number + 1]] for frame, at in zip(frames, edges, strict=True))
                    for number in range(layout.ranges)
                )
                tables = chain((some.sort("row") for some in ranges), _numbers(pa.concat_tables(numbers), buckets))
                yield Cut.written(work, f"parts/{part}.arrow", tables).told(part)

    parts = Cut.collected(spark.range(0, layout.parts, 1, layout.parts).mapInArrow(write, TOLD))
    if missing := set(range(layout.parts)).difference(parts):
        raise WorkError(f"No task wrote parts/{min(missing)}.arrow. Run again.")
    return parts


def _numbers(table: pa.Table, buckets: int) -> Iterator[pl.DataFrame]:
    """Yield the data for finding exact duplicates, one table per bucket of keys, and near ones, per bucket of bands."""
    documents = pl.DataFrame(pl.from_arrow(table))
    yield from _by_bucket(documents.select("row", "key_1", "key_2"), "key_1", buckets)
    if "bands" in documents.columns:
        firsts = dedup.first_of_equals(documents).select("row", band="bands")
        yield from _by_bucket(firsts.drop_nulls().explode("band"), "band", buckets)


def _by_bucket(rows: pl.DataFrame, hashes: str, buckets: int) -> Iterator[pl.DataFrame]:
    number = ((rows[hashes].to_numpy().view(np.uint64) >> np.uint64(32)) * np.uint64(buckets)) >> np.uint64(32)
    order = np.argsort(number.astype(np.uint16 if buckets < 1 << 16 else np.uint32), kind="stable")
    edges = np.searchsorted(number[order], np.arange(buckets + 1)).tolist()
    rows = rows[order]
    yield from (rows[start:end] for start, end in pairwise(edges))


def tidy(documents: pl.DataFrame, config: Clean, tested: Sequence[str]) -> tuple[pl.DataFrame, pa.Table]:
    """Return the tidied documents, and the numbers for finding duplicates among them.

    The documents are sorted by `row`, the id as a number, and have `rule` and `detail` if a rule drops them. The
    numbers are `row`, `key_1`, `key_2` and `bands` of the other documents. `bands` is null for documents that are never
    near duplicates: structured rows (one number may be the whole difference), other wordings (`same_as`), which are
    wanted, and short texts. Documents of `tested` sources come first.
    """
    tidied = [rules.tidy(documents[name], name in rules.LINE, config) for name in (*rules.LINE, *rules.PROSE)]
    structured, filled, content = _tidied_fields(documents["fields"], config)
    columns = [pl.Series("row", _ids_as_numbers(documents["id"])), pl.Series("content", content)]
    frame = documents.with_columns(*tidied, structured, *columns, pl.Series(rules.HAS_FIELDS, filled)).sort("row")
    frame = rules.judged(frame, config)
    good = frame.filter(pl.col("rule").is_null())
    later = ~good["source"].is_in(tested).to_numpy()
    said, around = (
        comparable_texts(good.select(pl.concat_str(names, separator="\x00")).to_series())
        for names in (TEXT_COLUMNS, ("context", "same_as"))
    )
    key_1, key_2 = (key ^ good["content"].to_numpy() for key in dedup.keys(said + "\x00" + around))
    numbers = {"row": good["row"].to_arrow(), "key_1": pa.array(key_1), "key_2": pa.array(dedup.marked(key_2, later))}
    if config.near_duplicates < 1:
        comparable = (good["same_as"] == "") & ~good[rules.HAS_FIELDS]
        numbers["bands"] = dedup.bands(said.zip_with(comparable, pl.Series([""])), around, later)
    return frame.drop("content", rules.HAS_FIELDS), pa.table(numbers)


def _tidied_fields(values: pl.Series, config: Clean) -> tuple[pl.Series, NDArray[np.bool_], NDArray[np.int64]]:
    """Return tidied fields, True for rows with any value, and an order-independent hash of all fields, per row."""
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
    digits = bytes.fromhex("".join(ids))
    return (np.frombuffer(digits, ">u8").astype(np.uint64) ^ _SIGN).view(np.int64)


def _duplicates(
    spark: SparkSession,
    parts: Mapping[int, Cut],
    layout: Layout,
    buckets: int,
    work: Work,
    config: Clean,
    stack: ExitStack,
) -> DataFrame:
    """Return all duplicates as (row, first, similarity). The similarity of an exact duplicate is null.

    Near duplicates are searched only among documents that are not exact duplicates. Spark keeps results that are used
    twice on its workers' disks until `stack` is closed, and recomputes lost ones.
    """

    def keep(rows: DataFrame) -> DataFrame:
        stack.callback(rows.persist(StorageLevel.DISK_ONLY).unpersist)
        return rows

    def tables(number: int) -> Iterator[pl.DataFrame]:
        return (pl.DataFrame(pl.from_arrow(part.read(work, layout.ranges + number))) for part in parts.values())

    def exact(bucket: int) -> Iterator[pl.DataFrame]:
        return dedup.exact(lambda: tables(bucket))

    def candidates(bucket: int) -> Iterator[pl.DataFrame]:
        yield dedup.candidates(pl.concat(tables(buckets + bucket)))

    same = _of_buckets(spark, exact, buckets)
    same = same.selectExpr("row", "first", "CAST(NULL AS DOUBLE) AS similarity")
    if config.near_duplicates == 1:
        return same
    same = keep(same)
    pairs = keep(_of_buckets(spark, candidates, buckets).distinct().join(same, "row", "left_anti"))
    pairs, texts_of = gathered(pairs, TEXT_COLUMNS, parts=parts, layout=layout, buckets=buckets, work=work)
    return same.unionByName(dedup.near(pairs, texts_of, config.near_duplicates))


def _of_buckets(spark: SparkSession, find: Callable[[int], Iterator[pl.DataFrame]], buckets: int) -> DataFrame:
    def found(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for bucket in (number for batch in batches for number in batch.column("id").to_pylist()):
            for pairs in find(bucket):
                yield from pairs.to_arrow().to_batches()

    return spark.range(0, buckets, 1, buckets).mapInArrow(found, "row long, first long")


def _check_complete(source: Path, counts: Mapping[tuple[str, str | None], int]) -> None:
    read, told = Counter[str](), Counter[str]()
    for batch in pq.ParquetFile(source, read_dictionary=["source"]).iter_batches(1 << 20, columns=["source"]):
        values = pc.value_counts(batch.column("source").cast(pa.string()))
        read.update({value["values"]: value["counts"] for value in values.to_pylist()})
    for (name, _), number in counts.items():
        told[name] += number
    if told != read:
        wrong = [
            f"{n}: {read[n]} came in, {told[n]} were kept or dropped" for n in sorted(read | told) if read[n] != told[n]
        ]
        raise WorkError(f"Documents were lost on the way: {'; '.join(wrong)}. Run again.")
