"""What makes two texts duplicates, without Spark."""

from __future__ import annotations

import random

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmops.data.clean import dedup

WORDS = st.lists(st.sampled_from(["a", "bb", "ccc", "dddd", "e1", "ff", "ggg", "hhhh"]), max_size=30)


def reference(text: str) -> set[tuple[str, ...]]:
    words = "".join(c if c.isalnum() else " " for c in text.lower()).split()
    return {tuple(words[i : i + 3]) for i in range(len(words) - 2)} if len(words) >= dedup.MIN_WORDS else set()


@settings(deadline=None)  # the first call starts polars' threads: half a second on a busy machine
@given(st.lists(WORDS, min_size=1, max_size=6), st.lists(WORDS, min_size=6, max_size=6))
def test_the_similarity_is_that_of_the_sets_of_word_triples(left: list[list[str]], right: list[list[str]]) -> None:
    pairs = [(" ".join(a), ", ".join(b)) for a, b in zip(left, right, strict=False)]
    found = dedup.jaccard(pl.Series([a for a, _ in pairs]), pl.Series([b for _, b in pairs])).to_list()
    for (a, b), similarity in zip(pairs, found, strict=True):
        one, other = reference(a), reference(b)
        if one or other:
            assert similarity == pytest.approx(len(one & other) / len(one | other))


def test_texts_without_spaces_are_compared_too() -> None:
    a, b = "新しい注文はいつ届きますか教えてください", "新しい注文はいつ届きますか教えてほしい"
    assert 0.6 < dedup.jaccard(pl.Series([a]), pl.Series([b]))[0] < 0.9


def test_a_column_is_hashed_as_its_texts_are() -> None:
    rng = random.Random(0)
    texts = [" ".join(rng.choices("abcdefghij", k=rng.randint(0, 30))) for _ in range(50)]
    assert dedup.bands(pl.Series(texts)).to_pylist() == [dedup.bands(pl.Series([t]))[0].as_py() for t in texts]


def test_similar_texts_share_a_band_and_others_do_not() -> None:
    rng = random.Random(0)
    words = [f"w{i}" for i in range(5000)]
    texts = [rng.choices(words, k=60) for _ in range(300)]
    close = [[*t[:30], "changed", *t[31:]] for t in texts]  # similarity 0.90
    near, far = (
        dedup.bands(pl.Series([" ".join(t) for t in texts])),
        dedup.bands(pl.Series([" ".join(t) for t in close])),
    )
    met = [bool(set(a) & set(b)) for a, b in zip(near.to_pylist(), far.to_pylist(), strict=True)]
    assert all(met)
    others = [bool(set(a) & set(b)) for a, b in zip(near.to_pylist(), far.to_pylist()[1:], strict=False)]
    assert not any(others)


def test_short_texts_have_no_bands() -> None:
    assert dedup.bands(pl.Series(["one two three", "", "1 2 3 4 5 6 7 8"])).to_pylist()[:2] == [None, None]
    assert dedup.bands(pl.Series(["one"])).to_pylist() == [None]


def test_keys_ignore_case_and_spaces_and_nothing_else() -> None:
    a, b = dedup.keys(pl.Series(["How  much?\nFive", "how much? five", "how much five", ""]))
    assert a[0] == a[1] and b[0] == b[1] and len({*a}) == 3 and len({*b}) == 3
