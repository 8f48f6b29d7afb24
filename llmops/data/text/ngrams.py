"""Hashed runs of words (n-grams), for comparing texts."""

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from llmops.data.text.words import UNSPACED, separate_words

SEED = 1
BATCH_TEXTS = 2_000  #: texts split into words at once; limits memory, does not change the result
SHINGLE_WORDS = 3  #: words per run, for near duplicates
MIN_WORDS = 8  #: shorter texts are not compared: one word of six makes "a cat" of "a dog"

_BREAK = r"[^\p{L}\p{M}\p{N} ]"
_FACTOR = np.uint64(0x9E3779B97F4A7C15)


def split_texts(texts: pl.Series) -> pl.Series:
    """Return the list of words of each text, without case and punctuation.

    For scripts without spaces, words are pieces of about a word's length (`separate_words`).
    """
    plain = texts.str.to_lowercase().str.replace_all(_BREAK, " ")
    rows = plain.str.contains(UNSPACED).arg_true()
    if len(rows):
        plain = plain.scatter(rows, pl.Series(map(separate_words, plain.gather(rows)), dtype=pl.String))
    plain = plain.str.replace_all("  +", " ").str.strip_chars(" ")
    split = plain.str.split(" ")
    blank = plain == ""  # "" would give one empty word
    return split.zip_with(~blank, pl.Series([[]], dtype=split.dtype)) if blank.any() else split


def hash_shingles(texts: pl.Series) -> pl.Series:
    """Return the set of each text's hashed runs of `SHINGLE_WORDS` words, as a list; empty below `MIN_WORDS` words."""
    starts = range(0, max(1, len(texts)), BATCH_TEXTS)
    return pl.concat([_hash_shingles(texts[start : start + BATCH_TEXTS]) for start in starts])


def _hash_shingles(texts: pl.Series) -> pl.Series:
    hashes, offsets = hash_ngrams(texts, SHINGLE_WORDS, MIN_WORDS)
    return pl.Series(pl.from_arrow(pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(hashes)))).list.unique()


def compute_jaccard(left: pl.Series, right: pl.Series) -> pl.Series:
    """Return the Jaccard similarity (0 to 1) of each pair of sets from `hash_shingles`."""
    intersection = pl.col("left").list.set_intersection("right").list.len()
    share = intersection / (pl.col("left").list.len() + pl.col("right").list.len() - intersection)
    return pl.DataFrame({"left": left, "right": right}).select(share.alias("share"))["share"]


def list_ngrams(texts: pl.Series, size: int) -> pl.DataFrame:
    """Return the distinct hashed runs of `size` words of each text: sorted columns `row` (text's index) and `gram`.

    A text with fewer words than `size` has none.
    """
    starts = range(0, max(1, len(texts)), BATCH_TEXTS)
    return pl.concat([_list_ngrams(texts[start : start + BATCH_TEXTS], start, size) for start in starts])


def _list_ngrams(texts: pl.Series, offset: int, size: int) -> pl.DataFrame:
    grams, offsets = hash_ngrams(texts, size)
    row = np.repeat(np.arange(len(texts)), np.diff(offsets))
    return pl.DataFrame({"row": (row + offset).astype(np.uint32), "gram": grams}).unique().sort("row", "gram")


def hash_ngrams(texts: pl.Series, size: int, min_words: int = 0) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Return the hashed runs of `size` words of all n texts in one array, and n + 1 offsets into it.

    The runs of text i are those from offset i up to offset i + 1, in order. A text with fewer words than `size` or
    `min_words` has none.
    """
    split = split_texts(texts)
    count = split.list.len().to_numpy().astype(np.int64)
    flat = split.explode(empty_as_null=False, keep_nulls=False).hash(SEED).to_numpy()
    starts = np.cumsum(count) - count
    runs = np.where(count >= max(size, min_words), count - (size - 1), 0)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(runs)])
    first = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], runs)  # index of each run's first word
    mixed = np.zeros(len(first), np.uint64)
    for step in range(size):
        mixed = (mixed ^ flat[first + step]) * _FACTOR
        mixed ^= mixed >> np.uint64(29)
    return mixed, offsets
