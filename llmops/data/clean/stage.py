"""The stage clean: tidies every document with Spark and drops duplicates. Dropped documents are kept with the reason.

Texts never pass through Spark's JVM, which would cost more than all other work. Its workers read the documents, tidy,
judge and hash them, and write them as parts, cut by ranges of ids, and by buckets of keys and of MinHash bands. They
find duplicates bucket by bucket; Spark only gets the pairs. Then they merge the parts, one range of ids at a time, into
files of kept and dropped documents.
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
from llmops.data.clean.candidate_texts import gather_texts
from llmops.data.clean.funnel import write_funnel
from llmops.data.clean.merge import OUTPUT_SCHEMAS, merge_parts
from llmops.data.clean.partitioning import Partitioning
from llmops.data.clean.work_files import (
    REPORT_COLUMNS,
    TableFile,
    WorkError,
    WorkFiles,
    check_shared,
)
from llmops.data.spark import BATCH_DOCUMENTS, open_spark_session, set_shuffle_partitions
from llmops.data.text.column_normalization import normalize_column
from llmops.data.text.ngrams import SEED
from llmops.frame.errors import LlmopsError
from llmops.frame.records import Document

log = logging.getLogger(__name__)

DOCUMENTS_FILE = "documents.parquet"
ROWS_PER_FILE = 100_000  #: approximate number of input documents per file
TEXT_COLUMNS = ("question", "answer", "text")  #: columns compared for near duplicates

_NO_TEST_SOURCES = Annotate()  # no source's documents come before others'
_COLUMNS = [field.name for field in fields(Document)]
_SIGN_BIT = np.uint64(1 << 63)


def run(config: Clean, *, collect: Path, out: Path, annotate: Annotate = _NO_TEST_SOURCES) -> Mapping[str, Any]:
    """Clean the documents of a collect artifact.

    Write `documents/` and `dropped/` as Parquet and the funnel as `report.md` and `funnel.png`. The bytes depend only
    on the documents, not on their order or the number of hosts. Among duplicates, documents of
    `annotate.test_sources` stay first.

    Raises:
        LlmopsError: if Java is missing, no document is left, or a host cannot reach the work files.
    """
    source, out = (collect / DOCUMENTS_FILE).absolute(), out.absolute()
    documents = pq.read_metadata(source)
    partitioning = Partitioning.choose(
        documents.num_row_groups, documents.num_rows, ROWS_PER_FILE, max(1, ROWS_PER_FILE // BATCH_DOCUMENTS)
    )
    work_files = WorkFiles.make(
        f"{config.work.rstrip('/')}/{out.name}" if config.work else str(out / ".work"), config.connection
    )
    for kind in OUTPUT_SCHEMAS:
        (out / kind).mkdir(parents=True)
    with ExitStack() as stack:
        work_files.clear()
        stack.callback(work_files.clear)
        spark = stack.enter_context(open_spark_session(config))
        if not (master := str(spark.sparkContext.master)).startswith("local"):
            if not config.work:
                raise LlmopsError(
                    f"Spark runs at {master}: say by `clean.work` where its workers find the documents, a folder that "
                    "all hosts share or a place in an object store."
                )
            check_shared(spark, work_files)
        set_shuffle_partitions(spark, config, documents.num_rows)
        work_files.add_file(source, DOCUMENTS_FILE)
        buckets = max(partitioning.files, spark.sparkContext.defaultParallelism)
        parts = _write_parts(spark, partitioning, buckets, work_files, config, annotate.test_sources)
        keep_test = annotate.split_by == "source"
        duplicates = _find_duplicates(spark, parts, partitioning, buckets, work_files, config, keep_test, stack)
        counts = merge_parts(duplicates, parts, partitioning, work_files, out)
    _check_complete(source, counts)
    funnel = write_funnel(((*key, number) for key, number in counts.items()), out)
    log.info("clean: kept %d of %d documents; dropped %s", funnel["kept"], funnel["in"], funnel["dropped"] or "none")
    if not funnel["kept"]:
        raise LlmopsError(
            f"Cleaning leaves none of {funnel['in']} documents: {funnel['dropped']}. "
            f"Why, row by row: {out / 'dropped'}."
        )
    return funnel


def _write_parts(
    spark: SparkSession,
    partitioning: Partitioning,
    buckets: int,
    work_files: WorkFiles,
    config: Clean,
    test_sources: Sequence[str],
) -> dict[int, TableFile]:
    """Write the parts, each with the tidied documents and their hashes.

    A part has `partitioning.files` tables of documents, then `buckets` tables of keys, then `buckets` tables of bands.
    """

    def write(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for part in (number for batch in batches for number in batch.column("id").to_pylist()):
            group = work_files.read_row_group(DOCUMENTS_FILE, part, _COLUMNS)
            documents, hashes = tidy_documents(pl.DataFrame(pl.from_arrow(group)), config, test_sources)
            tables = chain(partitioning.split_by_file(documents), _split_hashes(hashes, buckets))
            yield TableFile.write(work_files, f"parts/{part}.arrow", tables).make_report(part)

    parts = TableFile.collect_files(
        spark.range(0, partitioning.row_groups, 1, partitioning.row_groups).mapInArrow(write, REPORT_COLUMNS)
    )
    if missing := set(range(partitioning.row_groups)).difference(parts):
        raise WorkError(f"No task wrote parts/{min(missing)}.arrow. Run again.")
    return parts


def _split_hashes(table: pa.Table, buckets: int) -> Iterator[pl.DataFrame]:
    """Yield the data for finding exact duplicates, one table per bucket of keys, and near ones, per bucket of bands."""
    documents = pl.DataFrame(pl.from_arrow(table))
    yield from _split_by_bucket(documents.select("row", "key_1", "key_2"), "key_1", buckets)
    if "bands" in documents.columns:
        firsts = dedup.select_firsts(documents).select("row", band="bands")
        yield from _split_by_bucket(firsts.drop_nulls().explode("band"), "band", buckets)


def _split_by_bucket(rows: pl.DataFrame, hash_column: str, buckets: int) -> Iterator[pl.DataFrame]:
    bucket_numbers = (
        (rows[hash_column].to_numpy().view(np.uint64) >> np.uint64(32)) * np.uint64(buckets)
    ) >> np.uint64(32)
    order = np.argsort(bucket_numbers.astype(np.uint16 if buckets < 1 << 16 else np.uint32), kind="stable")
    edges = np.searchsorted(bucket_numbers[order], np.arange(buckets + 1)).tolist()
    rows = rows[order]
    yield from (rows[start:end] for start, end in pairwise(edges))


def tidy_documents(
    documents: pl.DataFrame, config: Clean, test_sources: Sequence[str]
) -> tuple[pl.DataFrame, pa.Table]:
    """Return the tidied documents, and the hashes for finding duplicates among them.

    The documents are sorted by `row`, the id as a number, and have `rule` and `detail` if a rule drops them. The hashes
    are `key_1`, `key_2` and `bands`, besides `row`, of the other documents. `bands` is null for documents that are
    never near duplicates: structured rows (one number may be the whole difference), other wordings (`same_as`), which
    are wanted, and short texts. The hashes have a bit by which documents of `test_sources` win among duplicates.
    """
    tidied = [
        rules.tidy_texts(documents[name], name in rules.LINE_COLUMNS)
        for name in (*rules.LINE_COLUMNS, *rules.PROSE_COLUMNS)
    ]
    tidied_fields, has_value, field_hashes = _tidy_fields(documents["fields"])
    columns = [pl.Series("row", _convert_ids(documents["id"])), pl.Series("fields_hash", field_hashes)]
    frame = documents.with_columns(*tidied, tidied_fields, *columns, pl.Series(rules.HAS_FIELDS, has_value)).sort("row")
    frame = rules.apply_rules(frame, config)
    kept = frame.filter(pl.col("rule").is_null())
    from_other_source = ~kept["source"].is_in(test_sources).to_numpy()
    texts, contexts = (
        normalize_column(kept.select(pl.concat_str(names, separator="\x00")).to_series())
        for names in (TEXT_COLUMNS, ("context", "same_as"))
    )
    key_1, key_2 = (key ^ kept["fields_hash"].to_numpy() for key in dedup.hash_texts(texts + "\x00" + contexts))
    hashes = {
        "row": kept["row"].to_arrow(),
        "key_1": pa.array(key_1),
        "key_2": pa.array(dedup.mark_other_sources(key_2, from_other_source)),
    }
    if config.near_duplicates < 1:
        can_be_near = (kept["same_as"] == "") & ~kept[rules.HAS_FIELDS]
        hashes["bands"] = dedup.hash_bands(texts.zip_with(can_be_near, pl.Series([""])), contexts, from_other_source)
    return frame.drop("fields_hash", rules.HAS_FIELDS), pa.table(hashes)


def _tidy_fields(values: pl.Series) -> tuple[pl.Series, NDArray[np.bool_], NDArray[np.int64]]:
    """Return tidied fields, True for rows with any value, and an order-independent hash of all fields, per row."""
    has_value, field_hashes = np.zeros(len(values), bool), np.zeros(len(values), np.int64)
    rows = (values != "{}").arg_true()
    if not len(rows):
        return values, has_value, field_hashes
    maps: list[dict[str, str]] = [json.loads(value) for value in values.gather(rows)]
    names = pl.Series([name for fields in maps for name in fields], dtype=pl.String)
    texts = pl.Series([text for fields in maps for text in fields.values()], dtype=pl.String)
    texts = rules.tidy_texts(texts, False)
    positions = np.repeat(rows.to_numpy(), [len(fields) for fields in maps])
    np.add.at(field_hashes, positions, (names + "\x00" + texts).hash(SEED).reinterpret(signed=True).to_numpy())
    has_value[positions[(texts != "").to_numpy()]] = True
    plain = iter(texts)
    tidied = [json.dumps({name: next(plain) for name in fields}, ensure_ascii=False) for fields in maps]
    return values.scatter(rows, pl.Series(tidied, dtype=pl.String)), has_value, field_hashes


def _convert_ids(ids: pl.Series) -> NDArray[np.int64]:
    """Return hexadecimal ids as signed integers in the same order."""
    digits = bytes.fromhex("".join(ids))
    return (np.frombuffer(digits, ">u8").astype(np.uint64) ^ _SIGN_BIT).view(np.int64)


def _find_duplicates(
    spark: SparkSession,
    parts: Mapping[int, TableFile],
    partitioning: Partitioning,
    buckets: int,
    work_files: WorkFiles,
    config: Clean,
    keep_test: bool,
    stack: ExitStack,
) -> DataFrame:
    """Return all duplicates as (row, first, similarity). The similarity of an exact duplicate is null.

    Near duplicates are searched only among documents that are not exact duplicates. With `keep_test` no document of a
    test source is dropped as one, so that a published test stays whole. Spark keeps results that are used
    twice on its workers' disks until `stack` is closed, and recomputes lost ones.
    """
    first_key_table, first_band_table = partitioning.files, partitioning.files + buckets

    def persist(rows: DataFrame) -> DataFrame:
        stack.callback(rows.persist(StorageLevel.DISK_ONLY).unpersist)
        return rows

    def read_tables(number: int) -> Iterator[pl.DataFrame]:
        return (pl.DataFrame(pl.from_arrow(part.read_table(work_files, number))) for part in parts.values())

    def find_exact(bucket: int) -> Iterator[pl.DataFrame]:
        return dedup.find_exact_duplicates(lambda: read_tables(first_key_table + bucket))

    def find_candidates(bucket: int) -> Iterator[pl.DataFrame]:
        yield dedup.find_candidates(pl.concat(read_tables(first_band_table + bucket)), keep_test)

    exact_duplicates = _search_buckets(spark, find_exact, buckets)
    exact_duplicates = exact_duplicates.selectExpr("row", "first", "CAST(NULL AS DOUBLE) AS similarity")
    if config.near_duplicates == 1:
        return exact_duplicates
    exact_duplicates = persist(exact_duplicates)
    pairs = persist(
        _search_buckets(spark, find_candidates, buckets).distinct().join(exact_duplicates, "row", "left_anti")
    )
    pairs, read_texts = gather_texts(
        pairs, TEXT_COLUMNS, parts=parts, partitioning=partitioning, buckets=buckets, work_files=work_files
    )
    return exact_duplicates.unionByName(dedup.find_near_duplicates(pairs, read_texts, config.near_duplicates))


def _search_buckets(spark: SparkSession, find: Callable[[int], Iterator[pl.DataFrame]], buckets: int) -> DataFrame:
    def search(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for bucket in (number for batch in batches for number in batch.column("id").to_pylist()):
            for pairs in find(bucket):
                yield from pairs.to_arrow().to_batches()

    return spark.range(0, buckets, 1, buckets).mapInArrow(search, "row long, first long")


def _check_complete(source: Path, counts: Mapping[tuple[str, str | None], int]) -> None:
    read, written = Counter[str](), Counter[str]()
    for batch in pq.ParquetFile(source, read_dictionary=["source"]).iter_batches(1 << 20, columns=["source"]):
        values = pc.value_counts(batch.column("source").cast(pa.string()))
        read.update({value["values"]: value["counts"] for value in values.to_pylist()})
    for (name, _), number in counts.items():
        written[name] += number
    if written != read:
        wrong = [
            f"{n}: {read[n]} came in, {written[n]} were kept or dropped"
            for n in sorted(read | written)
            if read[n] != written[n]
        ]
        raise WorkError(f"Documents were lost on the way: {'; '.join(wrong)}. Run again.")
