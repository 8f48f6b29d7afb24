"""Find training texts that give the test away: near duplicates of its texts, and long runs of shared words.

The test stays unchanged, and the training texts are dropped. Two texts are too close if
- their words are the same,
- or their sets of word 3-grams overlap by `NEAR` (Jaccard), if both have at least `MIN_WORDS` words,
- or they share 13 words in a row (Brown et al. 2020, arXiv:2005.14165, appendix C).

Nothing is sampled. All pairs to compare are found without comparing each with each: if two sets overlap by a share t,
 the first |x| - ⌈t·|x|⌉ + 1 members of each, the rarest first, have one in common (prefix filter: Bayardo, Ma &
Srikant 2007, Scaling up all pairs similarity search).

Only numbers of the held-out texts are in memory: 12 bytes per run of words, about 12 per 3-gram. If there are more than
`MOST` indexes, the training texts are read several times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from llmops.data.text.ngrams import SEED, SHINGLE, hashed_ngrams, jaccard, ngrams, shingles, words

NEAR = 0.7  #: as `clean.near_duplicates` by default
RUN = 13  #: words
BATCH = 5_000  #: texts that are compared at once: bounds memory, not the result
WORDS = 5_000_000  #: of held-out texts that are indexed together,
MOST = 4  #: and how many such indexes are in memory at once; both bound memory, not the result
PAIRS = 200_000  #: pairs whose 3-grams are compared at once, likewise
SAME = "the same words"  #: the shared part in the details of such texts
_SLOTS = 20  # bits of a 3-gram by which it is counted

_WORDS = pl.DataFrame(schema={"row": pl.Int64, "words": pl.UInt64})  # of no texts

Found = dict[int, tuple[int, str]]  #: index of a training text → index of a held-out text, and what they share


def overlaps_of(training: Callable[[], Iterable[pl.Series]], held_out: Iterable[pl.Series]) -> Found:
    """Return, by index, each training text that is too close to held-out ones, the first of these, and their share.

    The texts are in batches. `training` returns all training texts anew at each call.
    """
    best: dict[int, _Close] = {}
    indexes: list[_Index] = []

    def compare() -> None:
        if indexes:
            start = 0
            for texts in training():
                for close in _closest(texts, indexes):
                    row = start + close.row
                    best[row] = min(best.get(row, close), close, key=lambda one: (one.kind, one.other))
                start += len(texts)
            indexes.clear()

    first = 0
    for texts in _gathered(held_out):
        indexes.append(_Index(texts, first))
        first += len(texts)
        if len(indexes) == MOST:
            compare()
    compare()
    return {row: (close.other, close.shared) for row, close in sorted(best.items())}


def same_words(training: Iterable[pl.Series], held_out: Iterable[pl.Series]) -> Found:
    """Compare like `overlaps_of`, but find only texts with the same words."""
    held = pl.concat([_WORDS, *_numbered_words(held_out)]).group_by("words").agg(pl.col("row").min().alias("other"))
    close = (some.join(held, "words").select("row", "other") for some in _numbered_words(training))
    return {row: (other, SAME) for some in close for row, other in some.iter_rows()}


def in_batches(texts: Sequence[str]) -> Iterator[pl.Series]:
    """Yield texts in batches for `overlaps_of`."""
    for start in range(0, len(texts), BATCH):
        yield pl.Series(texts[start : start + BATCH], dtype=pl.String)


class _Close(NamedTuple):
    """A training text that is too close to a held-out one."""

    row: int
    kind: int  #: 0: the same words, 1: near, 2: a run of words
    other: int
    shared: str


def _gathered(batches: Iterable[pl.Series]) -> Iterator[pl.Series]:
    """Yield the texts joined to series of about `WORDS` words."""
    waiting: list[pl.Series] = []
    count = 0
    for texts in batches:
        waiting.append(texts)
        count += int((texts.str.count_matches(" ", literal=True) + 1).sum())
        if count >= WORDS:
            yield pl.concat(waiting)
            waiting, count = [], 0
    if waiting:
        yield pl.concat(waiting)


def _closest(texts: pl.Series, indexes: Sequence[_Index]) -> Iterator[_Close]:
    """Yield, for each way of being too close, the texts that are and the first held-out text that each is close to."""
    same, sets, runs = _hashed_words(texts), shingles(texts), hashed_ngrams(texts, RUN)
    for index in indexes:
        yield from index.same_words(same)
        yield from index.near(sets)
        yield from index.shared_runs(texts, *runs)


class _Index:
    """An index of some held-out texts as sorted numbers; `first` is the index of the first text."""

    def __init__(self, texts: pl.Series, first: int) -> None:
        self._first = first
        self._same = _least(_hashed_words(texts).rename({"words": "gram"}))
        self._sets = shingles(texts)
        sets = _members(self._sets)
        self._counts = np.bincount(_slots(sets), minlength=1 << _SLOTS).astype(np.uint32)
        self._rarest = _Sorted(self._rarest_of(sets))
        del sets
        self._runs = _least(ngrams(texts, RUN))

    def same_words(self, hashed: pl.DataFrame) -> Iterator[_Close]:
        """Yield the texts with the same words."""
        at, other = self._same.first(hashed["words"].to_numpy())
        for row, held in zip(hashed["row"].to_numpy()[at].tolist(), other.tolist(), strict=True):
            yield _Close(row, 0, self._first + held, SAME)

    def near(self, sets: pl.Series) -> Iterator[_Close]:
        """Yield the texts whose sets of 3-grams overlap by `NEAR`."""
        rarest = self._rarest_of(_members(sets))
        rows = rarest["row"].to_numpy()
        for at, other in self._rarest.all(rarest["gram"].to_numpy()):
            pairs = pl.DataFrame({"row": rows[at], "other": other}).unique()
            share = jaccard(sets.gather(pairs["row"]), self._sets.gather(pairs["other"]))
            for row, held, part in pairs.with_columns(share=share).filter(pl.col("share") >= NEAR).iter_rows():
                yield _Close(row, 1, self._first + held, f"{part:.0%} of all their runs of {SHINGLE} words")

    def shared_runs(self, texts: pl.Series, grams: NDArray[np.uint64], offsets: NDArray[np.int64]) -> Iterator[_Close]:
        """Yield the texts that share a run of words, each with the first such run."""
        at, other = self._runs.first(grams)
        if not len(at):
            return
        frame = pl.DataFrame({"at": at, "row": np.searchsorted(offsets, at, side="right") - 1, "other": other})
        first = frame.sort("row", "other", "at").unique("row", keep="first", maintain_order=True)
        for position, row, held in first.iter_rows():
            start = position - int(offsets[row])
            run = " ".join(words(texts[row : row + 1])[0][start : start + RUN])
            yield _Close(row, 2, self._first + held, f"{RUN} words in a row, {run!r}")

    def _rarest_of(self, sets: pl.DataFrame) -> pl.DataFrame:
        size = pl.len().over("row")
        least = (size * NEAR - 1e-9).ceil().cast(pl.Int64)  # so much of it a near duplicate must share; 1e-9: 0.7 · 10
        ordered = sets.with_columns(count=self._counts[_slots(sets)]).sort("row", "count", "gram")
        return ordered.filter(pl.int_range(pl.len()).over("row") <= size - least).select("row", "gram")


class _Sorted:
    """Sorted numbers, each with its row: the columns `gram` and `row`."""

    def __init__(self, grams: pl.DataFrame) -> None:
        ordered = grams.sort("gram", "row")
        self._grams, self._rows = (ordered[name].to_numpy() for name in ("gram", "row"))

    def first(self, grams: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.uint32]]:
        """Return the positions of the known `grams`, and the lowest row of each."""
        order = np.argsort(grams)
        at = np.searchsorted(self._grams, grams[order])
        there = at < len(self._grams)
        there[there] = self._grams[at[there]] == grams[order][there]
        return order[there], self._rows[at[there]]

    def all(self, grams: NDArray[np.uint64]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.uint32]]]:
        """Yield the positions of the known `grams` with all rows of each, in batches."""
        order = np.argsort(grams)
        low = np.searchsorted(self._grams, grams[order])
        count = np.searchsorted(self._grams, grams[order], side="right") - low
        order, low, count = (numbers[count > 0] for numbers in (order, low, count))
        total = np.cumsum(count)
        start = 0
        while start < len(order):
            before = int(total[start - 1]) if start else 0
            end = max(start + 1, int(np.searchsorted(total, before + PAIRS, side="right")))
            n = count[start:end]
            rows = np.repeat(low[start:end] - (np.cumsum(n) - n), n) + np.arange(n.sum())
            yield np.repeat(order[start:end], n), self._rows[rows]
            start = end


def _least(grams: pl.DataFrame) -> _Sorted:
    return _Sorted(grams.group_by("gram").agg(pl.col("row").min()))


def _members(sets: pl.Series) -> pl.DataFrame:
    frame = pl.DataFrame({"gram": sets}).with_row_index("row").filter(pl.col("gram").list.len() > 0)
    return frame.explode("gram")


def _slots(sets: pl.DataFrame) -> NDArray[np.int64]:
    return (sets["gram"].to_numpy() >> np.uint64(64 - _SLOTS)).astype(np.int64)


def _numbered_words(batches: Iterable[pl.Series]) -> Iterator[pl.DataFrame]:
    """Yield `_hashed_words` of each batch, with rows counted over all batches."""
    start = 0
    for texts in batches:
        yield _hashed_words(texts).select(pl.col("row").cast(pl.Int64) + start, "words")
        start += len(texts)


def _hashed_words(texts: pl.Series) -> pl.DataFrame:
    """Return the `row` and the hash of the `words` of each text that has words."""
    joined = words(texts).list.join(" ")
    frame = pl.DataFrame({"words": joined.hash(SEED)}).with_row_index("row")
    return frame.filter(joined != "")
