"""Exact and near duplicates among documents.

Exact: documents that say the same, upper case and white space aside. Near: the sets of their word 3-grams overlap by
at least `near_duplicates` (Jaccard). Candidates come from MinHash bands (Broder 1997; Leskovec, Rajaraman & Ullman,
Mining of Massive Datasets, ch. 3): 64 permutations in 16 bands of 4, which find a pair of similarity s with probability
1 - (1 - s⁴)¹⁶: 0.988 at 0.7, 0.9998 at 0.8. Each candidate pair is then verified by its true Jaccard.

Of every duplicate pair the document with the smaller id stays: a document is dropped if and only if one with a smaller
id says nearly the same. No chain of pairs has to be followed, and neither order nor partitioning changes the outcome.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F
from rensa import RMinHash

from llmops.data.text.ngrams import SEED, hashed_ngrams

NGRAM = 3  #: words of a shingle
PERMUTATIONS, BANDS = 64, 16
MIN_WORDS = 8  #: shorter texts have too few shingles to be compared

_FACTOR = np.uint64(0x9E3779B97F4A7C15)


def keys(texts: pl.Series) -> tuple[pl.Series, pl.Series]:
    """Two 64-bit hashes of each tidied text, lower-cased and in single spaces; equal texts share both."""
    plain = texts.str.to_lowercase().str.replace_all("\n", " ", literal=True).str.replace_all(r"  +", " ")
    return tuple(plain.hash(seed).reinterpret(signed=True) for seed in (SEED, SEED + 1))  # type: ignore[return-value]


def bands(texts: pl.Series) -> pa.Array:
    """A list of `BANDS` band hashes (int64) for each text; null for one too short to be compared."""
    hashes, offsets = hashed_ngrams(texts, NGRAM, MIN_WORDS)
    compared = np.diff(offsets) > 0
    used = np.concatenate([offsets[:-1][compared], offsets[-1:]])
    if not compared.any():
        return pa.nulls(len(texts), pa.list_(pa.int64()))
    digests = RMinHash.digest_matrix_from_flat_token_hashes(hashes, used, PERMUTATIONS, SEED).to_rows()
    rows = np.asarray(digests, dtype=np.uint64).reshape(-1, BANDS, PERMUTATIONS // BANDS)
    mixed = np.tile(np.arange(1, BANDS + 1, dtype=np.uint64), (len(rows), 1))  # equal rows of two bands do not meet
    for step in range(rows.shape[2]):
        mixed = (mixed ^ rows[:, :, step]) * _FACTOR
        mixed ^= mixed >> np.uint64(32)
    ends = np.cumsum(np.where(compared, BANDS, 0))
    limits = pa.array(np.concatenate([np.zeros(1, np.int64), ends]).astype(np.int32))
    return pa.ListArray.from_arrays(limits, pa.array(mixed.view(np.int64).ravel()), mask=pa.array(~compared))


def jaccard(left: pl.Series, right: pl.Series) -> pl.Series:
    """The Jaccard similarity (0 to 1) of the shingle sets of each pair of texts."""
    pairs = pl.DataFrame({"left": _sets(left), "right": _sets(right)})
    both = pl.col("left").list.set_intersection("right").list.len()
    return pairs.select((both / (pl.col("left").list.len() + pl.col("right").list.len() - both)).alias("s"))["s"]


def _sets(texts: pl.Series) -> pl.Series:
    hashes, offsets = hashed_ngrams(texts, NGRAM, MIN_WORDS)
    lists = pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(hashes))
    return pl.Series(pl.from_arrow(lists)).list.unique()


def exact(documents: DataFrame) -> DataFrame:
    """The exact duplicates, as (row, first): the document and the one with the smallest id that says the same.

    Args:
        documents: columns `row` (the id as a number) and the two of `keys`.
    """
    first = F.min("row").over(Window.partitionBy("key_1", "key_2"))
    return documents.select("row", first.alias("first")).where("row != first")


def candidates(documents: DataFrame) -> DataFrame:
    """The pairs (row, first) to compare: each document, and the one with the smallest id that shares a band with it.

    Args:
        documents: columns `row` and `bands`.
    """
    banded = documents.where("bands is not null").select("row", F.explode("bands").alias("band"))
    return banded.repartition("band").mapInArrow(_pairs_by_band, "row long, first long").distinct()


def near(pairs: DataFrame, texts_of: Callable[[pl.DataFrame], pl.Series], threshold: float) -> DataFrame:
    """The near duplicates, as (row, first, similarity): the document and a similar one with a smaller id.

    Args:
        pairs: what `candidates` found, with `part` and `first_part`, where the documents are.
        texts_of: the texts that were hashed, of documents given as (row, part).
        threshold: least Jaccard similarity of near duplicates.
    """

    def verify(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            some = pl.DataFrame(pl.from_arrow(batch))
            similarity = jaccard(
                texts_of(some.select("row", "part")), texts_of(some.select(row="first", part="first_part"))
            )
            columns: dict[str, Any] = {name: batch.column(name) for name in ("row", "first")}
            yield pa.RecordBatch.from_pydict({**columns, "similarity": similarity.to_arrow()})

    verified = pairs.mapInArrow(verify, "row long, first long, similarity double")
    close = verified.where(F.col("similarity") >= threshold)
    return close.groupBy("row").agg(F.min(F.struct("first", "similarity")).alias("of")).select("row", "of.*")


def _pairs_by_band(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The pairs (row, first) of the documents in one partition of (row, band) that share a band.

    The partition is held in memory, at 16 bytes a row. Spark's own hash aggregation takes three times as long, since it
    builds a table of all bands, and nearly every band belongs to one document alone.
    """
    tables = [pa.Table.from_batches([batch]) for batch in batches]
    if not tables:
        return
    banded = pl.DataFrame(pl.from_arrow(pa.concat_tables(tables)))
    shared = banded.filter(pl.col("band").is_duplicated())
    pairs = shared.with_columns(pl.col("row").min().over("band").alias("first")).filter(
        pl.col("row") != pl.col("first")
    )
    yield from pairs.select("row", "first").unique().to_arrow().to_batches()
