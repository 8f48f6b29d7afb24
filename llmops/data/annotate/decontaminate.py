"""Find training texts that give the test away: near duplicates of its texts, and long runs of shared words.

The test stays unchanged, and the training texts are dropped. Two texts are too close if
- their words are the same,
- or their sets of word 3-grams have a Jaccard similarity of at least `MIN_JACCARD`, if both have at least `MIN_WORDS`
  words,
- or they share 13 words in a row (Brown et al. 2020, arXiv:2005.14165, appendix C).

Nothing is sampled. All pairs to compare are found without comparing each with each: if two sets overlap by a share t,
the first |x| - ⌈t·|x|⌉ + 1 members of each, the rarest first, have one in common (prefix filter: Bayardo, Ma &
Srikant 2007, Scaling up all pairs similarity search).

The held-out texts are in memory, as numbers: 12 bytes per 13-gram, about 12 per 3-gram.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from llmops.data.text.ngrams import (
    SEED,
    SHINGLE_WORDS,
    compute_jaccard,
    hash_ngrams,
    hash_shingles,
    list_ngrams,
    split_texts,
)

MIN_JACCARD = 0.7  #: as `clean.near_duplicates` by default
NGRAM_WORDS = 13  #: words in a row that two texts must not share
# The next two bound memory, not the result.
BATCH = 5_000  #: texts that are compared at once
PAIR_BATCH = 200_000  #: pairs whose 3-grams are compared at once
SAME_WORDS = "the same words"  #: the shared part in the details of such texts
_SLOT_BITS = 20  # bits of a 3-gram by which it is counted

_NO_WORDS = pl.DataFrame(schema={"row": pl.Int64, "words": pl.UInt64})


class Overlap(NamedTuple):
    """A text that another one is too close to."""

    other: int  #: index of the text
    shared: str  #: the shared part in words


Overlaps = dict[int, Overlap]  #: index of a training text → its overlap with a held-out text


def find_overlaps(training: Iterable[pl.Series], held_out: Iterable[pl.Series]) -> Overlaps:
    """Return the overlap of each training text that is too close to held-out ones, with the first of these.

    The texts are in batches. All held-out ones are read before the first training text.
    """
    best: dict[int, _Match] = {}
    held = pl.concat([pl.Series(dtype=pl.String), *held_out])
    if not len(held):
        return {}
    index, start = _HeldOutIndex(held), 0
    del held  # its numbers are enough
    for texts in training:
        for match in index.find_matches(texts):
            row = start + match.row
            best[row] = min(best.get(row, match), match, key=lambda one: (one.kind, one.held_out))
        start += len(texts)
    return {row: Overlap(match.held_out, match.shared) for row, match in sorted(best.items())}


def find_same_words(training: Iterable[pl.Series], held_out: Iterable[pl.Series]) -> Overlaps:
    """Compare like `find_overlaps`, but find only texts with the same words."""
    held = pl.concat([_NO_WORDS, *_hash_batches(held_out)]).group_by("words").agg(pl.col("row").min().alias("other"))
    matches = (batch.join(held, "words").select("row", "other") for batch in _hash_batches(training))
    return {row: Overlap(other, SAME_WORDS) for batch in matches for row, other in batch.iter_rows()}


def split_into_batches(texts: Sequence[str]) -> Iterator[pl.Series]:
    """Yield texts in batches for `find_overlaps`."""
    for start in range(0, len(texts), BATCH):
        yield pl.Series(texts[start : start + BATCH], dtype=pl.String)


class _Match(NamedTuple):
    """A training text that is too close to a held-out one."""

    row: int  #: index of the training text
    kind: int  #: 0: the same words, 1: a near duplicate, 2: a shared n-gram
    held_out: int  #: index of the held-out text
    shared: str  #: the shared part in words


class _HeldOutIndex:
    """An index of held-out texts as sorted numbers."""

    def __init__(self, texts: pl.Series) -> None:
        self._same = _keep_lowest_rows(_hash_words(texts).rename({"words": "gram"}))
        self._sets = hash_shingles(texts)
        sets = _explode_sets(self._sets)
        self._counts = np.bincount(_compute_slots(sets), minlength=1 << _SLOT_BITS).astype(np.uint32)
        self._rarest = _SortedGrams(self._select_rarest(sets))
        del sets
        self._long_ngrams = _keep_lowest_rows(list_ngrams(texts, NGRAM_WORDS))

    def find_matches(self, texts: pl.Series) -> Iterator[_Match]:
        """Yield the texts that are too close to a held-out one, each with the first one, once per kind of match."""
        yield from self.find_same_words(_hash_words(texts))
        yield from self.find_near_duplicates(hash_shingles(texts))
        yield from self.find_shared_ngrams(texts, *hash_ngrams(texts, NGRAM_WORDS))

    def find_same_words(self, hashed: pl.DataFrame) -> Iterator[_Match]:
        """Yield the texts with the same words."""
        positions, other = self._same.find_first(hashed["words"].to_numpy())
        for row, held in zip(hashed["row"].to_numpy()[positions].tolist(), other.tolist(), strict=True):
            yield _Match(row, 0, held, SAME_WORDS)

    def find_near_duplicates(self, sets: pl.Series) -> Iterator[_Match]:
        """Yield the texts whose sets of 3-grams have a Jaccard similarity of at least `MIN_JACCARD`."""
        rarest = self._select_rarest(_explode_sets(sets))
        rows = rarest["row"].to_numpy()
        for positions, other in self._rarest.find_all(rarest["gram"].to_numpy()):
            pairs = pl.DataFrame({"row": rows[positions], "other": other}).unique()
            share = compute_jaccard(sets.gather(pairs["row"]), self._sets.gather(pairs["other"]))
            for row, held, part in pairs.with_columns(share=share).filter(pl.col("share") >= MIN_JACCARD).iter_rows():
                yield _Match(row, 1, held, f"{part:.0%} of all their runs of {SHINGLE_WORDS} words")

    def find_shared_ngrams(
        self, texts: pl.Series, grams: NDArray[np.uint64], offsets: NDArray[np.int64]
    ) -> Iterator[_Match]:
        """Yield the texts that share `NGRAM_WORDS` words in a row, each with the first such n-gram."""
        positions, other = self._long_ngrams.find_first(grams)
        if not len(positions):
            return
        rows = np.searchsorted(offsets, positions, side="right") - 1
        frame = pl.DataFrame({"position": positions, "row": rows, "other": other})
        first = frame.sort("row", "other", "position").unique("row", keep="first", maintain_order=True)
        for position, row, held in first.iter_rows():
            start = position - int(offsets[row])
            ngram = " ".join(split_texts(texts[row : row + 1])[0][start : start + NGRAM_WORDS])
            yield _Match(row, 2, held, f"{NGRAM_WORDS} words in a row, {ngram!r}")

    def _select_rarest(self, sets: pl.DataFrame) -> pl.DataFrame:
        size = pl.len().over("row")
        # A near duplicate shares at least so many members. Without 1e-9, 0.7 · 10 would be rounded up to 8.
        shared = (size * MIN_JACCARD - 1e-9).ceil().cast(pl.Int64)
        ordered = sets.with_columns(count=self._counts[_compute_slots(sets)]).sort("row", "count", "gram")
        return ordered.filter(pl.int_range(pl.len()).over("row") <= size - shared).select("row", "gram")


class _SortedGrams:
    """Sorted numbers, each with its row: the columns `gram` and `row`."""

    def __init__(self, grams: pl.DataFrame) -> None:
        ordered = grams.sort("gram", "row")
        self._grams, self._rows = (ordered[name].to_numpy() for name in ("gram", "row"))

    def find_first(self, grams: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.uint32]]:
        """Return the positions of the known `grams`, and the lowest row of each."""
        order = np.argsort(grams)
        index = np.searchsorted(self._grams, grams[order])
        known = index < len(self._grams)
        known[known] = self._grams[index[known]] == grams[order][known]
        return order[known], self._rows[index[known]]

    def find_all(self, grams: NDArray[np.uint64]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.uint32]]]:
        """Yield the positions of the known `grams` with all rows of each, in batches."""
        order = np.argsort(grams)
        low = np.searchsorted(self._grams, grams[order])
        count = np.searchsorted(self._grams, grams[order], side="right") - low
        order, low, count = (numbers[count > 0] for numbers in (order, low, count))
        total = np.cumsum(count)
        start = 0
        while start < len(order):
            before = int(total[start - 1]) if start else 0
            end = max(start + 1, int(np.searchsorted(total, before + PAIR_BATCH, side="right")))
            n = count[start:end]
            rows = np.repeat(low[start:end] - (np.cumsum(n) - n), n) + np.arange(n.sum())
            yield np.repeat(order[start:end], n), self._rows[rows]
            start = end


def _keep_lowest_rows(grams: pl.DataFrame) -> _SortedGrams:
    return _SortedGrams(grams.group_by("gram").agg(pl.col("row").min()))


def _explode_sets(sets: pl.Series) -> pl.DataFrame:
    frame = pl.DataFrame({"gram": sets}).with_row_index("row").filter(pl.col("gram").list.len() > 0)
    return frame.explode("gram")


def _compute_slots(sets: pl.DataFrame) -> NDArray[np.int64]:
    return (sets["gram"].to_numpy() >> np.uint64(64 - _SLOT_BITS)).astype(np.int64)


def _hash_batches(batches: Iterable[pl.Series]) -> Iterator[pl.DataFrame]:
    """Yield `_hash_words` of each batch, with rows counted over all batches."""
    start = 0
    for texts in batches:
        yield _hash_words(texts).select(pl.col("row").cast(pl.Int64) + start, "words")
        start += len(texts)


def _hash_words(texts: pl.Series) -> pl.DataFrame:
    """Return the `row` and the hash of the `words` of each text that has words."""
    joined = split_texts(texts).list.join(" ")
    frame = pl.DataFrame({"words": joined.hash(SEED)}).with_row_index("row")
    return frame.filter(joined != "")
