"""Exact and near duplicates among documents.

Exact duplicates say the same, however it was typed (`comparable`). Near duplicates have the same context, the same
numbers, and sets of word 3-grams of question and answer that overlap by at least `near_duplicates` (Jaccard). So a page
can be the context of many questions, one question can be asked about many pages, and a question about the X100 differs
from one about the X200, or about another version, price or date. Candidates come from MinHash bands (Broder 1997;
Leskovec, Rajaraman & Ullman, Mining of Massive Datasets, ch. 3): 64 permutations in 16 bands of 4, which find a pair of
similarity s with probability 1 - (1 - s⁴)¹⁶: 0.988 at 0.7, 0.9998 at 0.8. The Jaccard similarity of each candidate pair
is then computed.

The first document of a duplicate pair stays: tested sources come first, then the order of ids decides. A document is
dropped if and only if an earlier one says nearly the same. Chains of pairs are not followed, and neither order nor
partitioning changes the result. The lowest bit of a key and of each band says if the source is tested (0: tested),
which takes no extra byte.
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

from llmops.data.text.ngrams import MIN_WORDS, SEED, SHINGLE, hashed_ngrams, jaccard, shingles

PERMUTATIONS, BANDS = 64, 16
MOST_ROWS = 1_000_000  #: documents (24 bytes each) searched for exact duplicates at once

# A number with the letters and numbers attached to it: `x100`, `3.12`, `2026-01-31`, `10^2`. Letters of scripts without
# spaces are excluded.
_LETTERS = r"[\p{Latin}\p{Greek}\p{Cyrillic}\pN]*"
_NUMBER = rf"{_LETTERS}\pN{_LETTERS}(?:[.,:/^_-]{_LETTERS}\pN{_LETTERS})*"

_FACTOR = np.uint64(0x9E3779B97F4A7C15)


def keys(texts: pl.Series) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return two 64-bit hashes of each text; equal texts share both."""
    first, second = (texts.hash(seed).reinterpret(signed=True).to_numpy() for seed in (SEED, SEED + 1))
    return first, second


def marked(hashes: NDArray[np.int64], later: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Set the lowest bit to 1 for documents of untested sources, so that tested ones win ties."""
    return (hashes & ~np.int64(1)) | later


def bands(texts: pl.Series, contexts: pl.Series, later: NDArray[np.bool_]) -> pa.Array:
    """Return `BANDS` band hashes (int64, `marked`) of each text; null for a text that is too short.

    The texts are from `comparable_texts`, so that exact duplicates share all bands. Texts with different numbers or
    contexts share none.
    """
    hashes, offsets = hashed_ngrams(texts, SHINGLE, MIN_WORDS)
    compared = np.diff(offsets) > 0
    used = np.concatenate([offsets[:-1][compared], offsets[-1:]])
    if not compared.any():
        return pa.nulls(len(texts), pa.list_(pa.int64()))
    digests = RMinHash.digest_matrix_from_flat_token_hashes(hashes, used, PERMUTATIONS, SEED).to_rows()
    rows = np.asarray(digests, dtype=np.uint64).reshape(-1, BANDS, PERMUTATIONS // BANDS)
    apart = (contexts.hash(SEED).to_numpy() ^ numbers(texts))[compared]
    mixed = np.arange(1, BANDS + 1, dtype=np.uint64) ^ apart[:, None]  # so that equal rows of two bands differ
    for step in range(rows.shape[2]):
        mixed = (mixed ^ rows[:, :, step]) * _FACTOR
        mixed ^= mixed >> np.uint64(32)
    ends = np.cumsum(np.where(compared, BANDS, 0))
    limits = pa.array(np.concatenate([np.zeros(1, np.int64), ends]).astype(np.int32))
    whole = marked(mixed.view(np.int64), later[compared][:, None])
    return pa.ListArray.from_arrays(limits, pa.array(whole.ravel()), mask=pa.array(~compared))


def numbers(texts: pl.Series) -> NDArray[np.uint64]:
    """Return a hash of each text's set of numbers, versions, models and dates; the same for all texts without any."""
    # Search only texts that may have some: 0.1 µs per text, 10 µs with the search.
    rows = (texts.str.contains("[0-9]") | (texts.str.len_bytes() != texts.str.len_chars())).arg_true()
    named = texts.gather(rows).str.to_lowercase().str.extract_all(_NUMBER).list.unique().list.sort().list.join(" ")
    return pl.repeat("", len(texts), eager=True).scatter(rows, named).hash(SEED).to_numpy()


def exact(tables: Callable[[], Iterator[pl.DataFrame]]) -> Iterator[pl.DataFrame]:
    """Yield exact duplicates as (row, first): the document, and the first one that says the same.

    Memory is limited to twice the distinct texts, or `MOST_ROWS`, however often a text occurs.

    Args:
        tables: returns the documents, several times: columns `row` (the id as a number) and the two of `keys`, the
            second one `marked`. All documents of a text must be in the same call.
    """
    held, rows, most = list[pl.DataFrame](), 0, MOST_ROWS
    for table in tables():
        held.append(table)
        rows += len(table)
        if rows > most:
            held = [first_of_equals(pl.concat(held))]
            rows = len(held[0])
            most = max(MOST_ROWS, 2 * rows)
    equal = pl.col("key_2") & ~1
    firsts = first_of_equals(pl.concat(held)).select("key_1", equal, first="row")
    for table in tables():
        found = table.select("row", "key_1", equal).join(firsts, ["key_1", "key_2"])
        yield found.select("row", "first").filter(pl.col("row") != pl.col("first"))


def first_of_equals(documents: pl.DataFrame) -> pl.DataFrame:
    """Return the first document of each text, with all columns."""
    equal = pl.col("key_2") & ~1
    return documents.sort(pl.col("key_2") & 1, "row").filter(pl.struct("key_1", equal).is_first_distinct())


def candidates(banded: pl.DataFrame) -> pl.DataFrame:
    """Return the pairs (row, first) to compare: each document, and the first one that shares a band with it.

    Exact duplicates of a document share its bands and come after it, so none of them is the first. `banded` has the
    columns `row` and `band`, with all documents of each band.
    """
    values = np.sort(banded["band"].to_numpy() >> 1)  # nearly every band has only one document
    several = pl.Series(np.unique(values[1:][values[1:] == values[:-1]]))
    shared = banded.with_columns(later=pl.col("band") & 1 == 1, band=pl.Series(banded["band"].to_numpy() >> 1))
    shared = shared.filter(pl.col("band").is_in(several.implode()))
    tested = pl.when(~pl.col("later")).then("row").min().over("band")
    first = pl.coalesce(tested, pl.col("row").min().over("band"))
    return shared.select("row", first.alias("first")).filter(pl.col("row") != pl.col("first")).unique()


def near(pairs: DataFrame, texts_of: Callable[[int], pl.DataFrame], threshold: float) -> DataFrame:
    """Return near duplicates as (row, first, similarity): the document, and a similar earlier one.

    `pairs` are distinct results of `candidates`, with a column `bucket`, which is constant in a partition. `texts_of`
    returns the texts of all documents of a bucket: columns `row`, sorted, and `text`.
    """

    def verify(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for number, batch in enumerate(batches):
            some = pl.DataFrame(pl.from_arrow(batch))
            if not number:
                texts = texts_of(some["bucket"][0])
            left, right = (texts["text"][texts["row"].search_sorted(some[name])] for name in ("row", "first"))
            columns: dict[str, Any] = {name: batch.column(name) for name in ("row", "first")}
            yield pa.RecordBatch.from_pydict(
                {**columns, "similarity": jaccard(shingles(left), shingles(right)).to_arrow()}
            )

    verified = pairs.mapInArrow(verify, "row long, first long, similarity double")
    close = verified.where(F.col("similarity") >= threshold)
    return close.groupBy("row").agg(F.min(F.struct("first", "similarity")).alias("of")).select("row", "of.*")
