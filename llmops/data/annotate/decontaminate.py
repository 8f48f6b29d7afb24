"""What training would give away of the test: texts that say nearly the same, and long runs of words in common.

The test stays as it is; the training side gives way. Two texts are too close if
- their words are the same,
- or their sets of word 3-grams overlap by `NEAR` (Jaccard), if both have at least `MIN_WORDS` words,
- or they share 13 words in a row (Brown et al. 2020, arXiv:2005.14165, appendix C).

Nothing is sampled. Pairs to compare are found exactly and without comparing all with all: of two sets that overlap by a
share t, the first |x| - ⌈t·|x|⌉ + 1 members of each, the rarest first, have one in common (prefix filter: Bayardo, Ma &
Srikant 2007, Scaling up all pairs similarity search).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import count, islice

import polars as pl

from llmops.data.text.ngrams import ngrams, words

NEAR = 0.7  #: as `clean.near_duplicates` by default
MIN_WORDS = 8  #: shorter texts have too few 3-grams: one word of six makes "a cat" of "a dog"
SHINGLE, RUN = 3, 13  #: words
BATCH = 5_000  #: texts that are compared at once: bounds memory, not the result


def overlaps(training: Iterable[str], held_out: Sequence[str]) -> dict[int, tuple[int, str]]:
    """Index of a training text → index of the first held-out text that it is too close to, and what they share.

    Args:
        training: texts that may be dropped.
        held_out: texts that stay.
    """
    found: dict[int, tuple[int, str]] = {}
    if not held_out:
        return found
    index = _Index(pl.Series(held_out, dtype=pl.String))
    remaining = iter(training)
    for start in count(0, BATCH):
        texts = pl.Series(list(islice(remaining, BATCH)), dtype=pl.String)
        if texts.is_empty():
            return found
        for row, other, shared in index.close_to(texts):
            found.setdefault(start + row, (other, shared))
    return found


class _Index:
    """The held-out texts, ready to be searched."""

    def __init__(self, texts: pl.Series) -> None:
        self.texts = texts
        self.same = _joined_words(texts).group_by("words").agg(pl.col("row").min())
        sets = ngrams(texts, SHINGLE, MIN_WORDS)
        self.sets = sets.group_by("row").agg("gram")
        self.count = sets.group_by("gram").agg(pl.len().alias("count"))
        self.rarest = self._rarest(sets)
        self.runs = ngrams(texts, RUN).group_by("gram").agg(pl.col("row").min())

    def close_to(self, texts: pl.Series) -> Iterator[tuple[int, int, str]]:
        """Row in `texts`, row of the held-out text and what they share; the same words first, the shared run last."""
        same = _joined_words(texts).join(self.same, "words", suffix="_held").sort("row")
        for row, other in same.select("row", "row_held").iter_rows():
            yield row, other, "the same words"
        for row, other, share in self._near(texts).iter_rows():
            yield row, other, f"{share:.0%} of all their runs of {SHINGLE} words"
        for row, other in self._runs(texts).iter_rows():
            if run := _first_shared_run(texts[row], self.texts[other]):
                yield row, other, f"{RUN} words in a row, {run!r}"

    def _near(self, texts: pl.Series) -> pl.DataFrame:
        sets = ngrams(texts, SHINGLE, MIN_WORDS)
        pairs = self._rarest(sets).join(self.rarest, "gram", suffix="_held").select("row", "row_held").unique()
        both = pairs.join(sets.group_by("row").agg("gram"), "row").join(
            self.sets, left_on="row_held", right_on="row", suffix="_held"
        )
        shared = pl.col("gram").list.set_intersection("gram_held").list.len()
        share = shared / (pl.col("gram").list.len() + pl.col("gram_held").list.len() - shared)
        close = both.select("row", "row_held", share.alias("share")).filter(pl.col("share") >= NEAR)
        return close.sort("row", "row_held").unique("row", keep="first", maintain_order=True)

    def _runs(self, texts: pl.Series) -> pl.DataFrame:
        pairs = ngrams(texts, RUN).join(self.runs, "gram", suffix="_held")
        return pairs.group_by("row").agg(pl.col("row_held").min()).sort("row")

    def _rarest(self, sets: pl.DataFrame) -> pl.DataFrame:
        size = pl.len().over("row")
        least = (size * NEAR - 1e-9).ceil().cast(pl.Int64)  # so much of it a near duplicate must share; 1e-9: 0.7 · 10
        ordered = sets.join(self.count, "gram", how="left").sort(pl.col("count").fill_null(0), "gram")
        return ordered.filter(pl.int_range(pl.len()).over("row") <= size - least).select("row", "gram")


def _joined_words(texts: pl.Series) -> pl.DataFrame:
    """`row` and its `words` in one string, of texts that have some."""
    joined = pl.DataFrame({"words": words(texts).list.join(" ")}).with_row_index("row")
    return joined.filter(pl.col("words") != "")


def _first_shared_run(left: str, right: str) -> str:
    """The first run of words in `left` that is in `right` too; empty if only their hashes met."""
    a, b = words(pl.Series([left, right])).to_list()
    there = {tuple(b[start : start + RUN]) for start in range(len(b) - RUN + 1)}
    runs = (a[start : start + RUN] for start in range(len(a) - RUN + 1))
    return next((" ".join(run) for run in runs if tuple(run) in there), "")
