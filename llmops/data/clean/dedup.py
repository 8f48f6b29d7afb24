"""Exact and near duplicates among documents.

Exact duplicates say the same, however it was typed (`normalize_text`). Near duplicates have the same context, the same
numbers, and sets of word 3-grams of question and answer that overlap by at least `near_duplicates` (Jaccard). So a page
can be the context of many questions, one question can be asked about many pages, and a question about the X100 differs
from one about the X200, or about another version, price or date. Candidates come from MinHash bands (Broder 1997;
Leskovec, Rajaraman & Ullman, Mining of Massive Datasets, ch. 3): 64 permutations in 16 bands of 4, which find a pair of
similarity s with probability 1 - (1 - s⁴)¹⁶: 0.988 at 0.7, 0.9998 at 0.8. The Jaccard similarity of each candidate pair
is then computed.

The first document of a duplicate pair stays. Documents of the sources from which test items are taken
(`annotate.test_sources`) come first, then the order of ids decides. The lowest bit of a key and of each band is 0 for
these sources and 1 for others, which takes no extra byte.

A document is dropped as a near duplicate if it is similar enough to the first document of a band that they share, even
if that one is dropped itself: chains are not followed further. An earlier similar document that is the first of no
shared band is not compared, so some pairs are missed. Neither order nor partitioning changes the result.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from rensa import RMinHash

from llmops.data.text.ngrams import MIN_WORDS, SEED, SHINGLE_WORDS, compute_jaccard, hash_ngrams, hash_shingles

PERMUTATIONS, BANDS = 64, 16
MAX_ROWS = 1_000_000  #: documents (24 bytes each) that are searched for exact duplicates at once

# A number with the letters and numbers attached to it: `x100`, `3.12`, `2026-01-31`, `10^2`. Letters of scripts without
# spaces are excluded.
_LETTERS = r"[\p{Latin}\p{Greek}\p{Cyrillic}\pN]*"
_NUMBER = rf"{_LETTERS}\pN{_LETTERS}(?:[.,:/^_-]{_LETTERS}\pN{_LETTERS})*"

_FACTOR = np.uint64(0x9E3779B97F4A7C15)


def hash_texts(texts: pl.Series) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return two 64-bit hashes of each text; equal texts share both."""
    first, second = (texts.hash(seed).reinterpret(signed=True).to_numpy() for seed in (SEED, SEED + 1))
    return first, second


def mark_other_sources(hashes: NDArray[np.int64], from_other_source: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Set the lowest bit to 1 for documents of sources that give no test items, so that those of test sources win."""
    return (hashes & ~np.int64(1)) | from_other_source


def hash_bands(texts: pl.Series, contexts: pl.Series, from_other_source: NDArray[np.bool_]) -> pa.Array:
    """Return `BANDS` band hashes (int64, from `mark_other_sources`) of each text; null for a text that is too short.

    The texts are from `normalize_column`, so that exact duplicates share all bands. Texts with different numbers or
    contexts share none.
    """
    hashes, offsets = hash_ngrams(texts, SHINGLE_WORDS, MIN_WORDS)
    is_long_enough = np.diff(offsets) > 0
    used = np.concatenate([offsets[:-1][is_long_enough], offsets[-1:]])
    if not is_long_enough.any():
        return pa.nulls(len(texts), pa.list_(pa.int64()))
    digests = RMinHash.digest_matrix_from_flat_token_hashes(hashes, used, PERMUTATIONS, SEED).to_rows()
    rows = np.asarray(digests, dtype=np.uint64).reshape(-1, BANDS, PERMUTATIONS // BANDS)
    separators = (contexts.hash(SEED).to_numpy() ^ hash_numbers(texts))[is_long_enough]
    # The number of the band is mixed in, so that equal digests in different bands give different hashes.
    mixed = np.arange(1, BANDS + 1, dtype=np.uint64) ^ separators[:, None]
    for step in range(rows.shape[2]):
        mixed = (mixed ^ rows[:, :, step]) * _FACTOR
        mixed ^= mixed >> np.uint64(32)
    ends = np.cumsum(np.where(is_long_enough, BANDS, 0))
    list_offsets = pa.array(np.concatenate([np.zeros(1, np.int64), ends]).astype(np.int32))
    band_hashes = mark_other_sources(mixed.view(np.int64), from_other_source[is_long_enough][:, None])
    return pa.ListArray.from_arrays(list_offsets, pa.array(band_hashes.ravel()), mask=pa.array(~is_long_enough))


def hash_numbers(texts: pl.Series) -> NDArray[np.uint64]:
    """Return a hash of each text's set of numbers, versions, models and dates; the same for all texts without any."""
    # Search only texts that may have some: 0.1 µs per text, 10 µs with the search.
    rows = (texts.str.contains("[0-9]") | (texts.str.len_bytes() != texts.str.len_chars())).arg_true()
    numbers = texts.gather(rows).str.to_lowercase().str.extract_all(_NUMBER).list.unique().list.sort().list.join(" ")
    return pl.repeat("", len(texts), eager=True).scatter(rows, numbers).hash(SEED).to_numpy()


def find_exact_duplicates(read_tables: Callable[[], Iterator[pl.DataFrame]]) -> Iterator[pl.DataFrame]:
    """Yield exact duplicates as (row, first): the document, and the first one that says the same.

    Memory is limited to twice the distinct texts, or `MAX_ROWS`, however often a text occurs.

    Args:
        read_tables: returns the tables of all documents, and is called twice. Their columns are `row` (the id as a
            number), and `key_1` and `key_2` from `hash_texts`, where `key_2` is also from `mark_other_sources`.
    """
    tables, rows, max_rows = list[pl.DataFrame](), 0, MAX_ROWS
    for table in read_tables():
        tables.append(table)
        rows += len(table)
        if rows > max_rows:
            tables = [select_firsts(pl.concat(tables))]
            rows = len(tables[0])
            max_rows = max(MAX_ROWS, 2 * rows)
    second_key = pl.col("key_2") & ~1
    firsts = select_firsts(pl.concat(tables)).select("key_1", second_key, first="row")
    for table in read_tables():
        found = table.select("row", "key_1", second_key).join(firsts, ["key_1", "key_2"])
        yield found.select("row", "first").filter(pl.col("row") != pl.col("first"))


def select_firsts(documents: pl.DataFrame) -> pl.DataFrame:
    """Return the first document of each text, with all columns."""
    second_key = pl.col("key_2") & ~1
    return documents.sort(pl.col("key_2") & 1, "row").filter(pl.struct("key_1", second_key).is_first_distinct())


def find_candidates(bands: pl.DataFrame, keep_test_sources: bool) -> pl.DataFrame:
    """Return the pairs (row, first) to compare: for each band of a document, the document and the first one in it.

    Exact duplicates of a document share its bands and come after it, so none of them is the first. `bands` has the
    columns `row` and `band`, with all documents of each band. With `keep_test_sources`, no `row` is a document of a
    source that gives test items, so none of these is dropped.
    """
    values = np.sort(bands["band"].to_numpy() >> 1)  # nearly every band has only one document
    shared_bands = pl.Series(np.unique(values[1:][values[1:] == values[:-1]]))
    shared = bands.with_columns(
        from_other_source=pl.col("band") & 1 == 1, band=pl.Series(bands["band"].to_numpy() >> 1)
    )
    shared = shared.filter(pl.col("band").is_in(shared_bands.implode()))
    first_of_test_source = pl.when(~pl.col("from_other_source")).then("row").min().over("band")
    first = pl.coalesce(first_of_test_source, pl.col("row").min().over("band"))
    pairs = shared.with_columns(first.alias("first")).filter(pl.col("row") != pl.col("first"))
    if keep_test_sources:
        pairs = pairs.filter(pl.col("from_other_source"))
    return pairs.select("row", "first").unique()


def find_near_duplicates(pairs: DataFrame, read_texts: Callable[[int], pl.DataFrame], threshold: float) -> DataFrame:
    """Return near duplicates as (row, first, similarity): the document, and one of `pairs` that is similar enough.

    If several are, `first` is the one with the lowest id.

    `pairs` are distinct results of `find_candidates`, with a column `bucket`, which is constant in a partition.
    `read_texts` returns the texts of all documents of a bucket: columns `row`, sorted, and `text`.
    """

    def verify(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for number, batch in enumerate(batches):
            some = pl.DataFrame(pl.from_arrow(batch))
            if not number:
                texts = read_texts(some["bucket"][0])
            left, right = (texts["text"][texts["row"].search_sorted(some[name])] for name in ("row", "first"))
            columns: dict[str, Any] = {name: batch.column(name) for name in ("row", "first")}
            yield pa.RecordBatch.from_pydict(
                {**columns, "similarity": compute_jaccard(hash_shingles(left), hash_shingles(right)).to_arrow()}
            )

    verified = pairs.mapInArrow(verify, "row long, first long, similarity double")
    close = verified.where(F.col("similarity") >= threshold)
    return (
        close.groupBy("row").agg(F.min(F.struct("first", "similarity")).alias("earliest")).select("row", "earliest.*")
    )
