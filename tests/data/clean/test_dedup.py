"""What makes two texts duplicates, without Spark."""

import random
from itertools import product

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmops.data.clean import dedup
from llmops.data.text.column_normalization import normalize_column
from llmops.data.text.ngrams import MIN_WORDS, compute_jaccard, hash_shingles

WORDS = st.lists(st.sampled_from(["a", "bb", "ccc", "dddd", "e1", "ff", "ggg", "hhhh"]), max_size=30)


def reference(text: str) -> set[tuple[str, ...]]:
    words = "".join(c if c.isalnum() else " " for c in text.lower()).split()
    return {tuple(words[i : i + 3]) for i in range(len(words) - 2)} if len(words) >= MIN_WORDS else set()


@settings(deadline=None)  # the first call starts polars' threads: half a second on a busy machine
@given(st.lists(WORDS, min_size=1, max_size=6), st.lists(WORDS, min_size=6, max_size=6))
def test_the_similarity_is_that_of_the_sets_of_word_triples(left: list[list[str]], right: list[list[str]]) -> None:
    pairs = [(" ".join(a), ", ".join(b)) for a, b in zip(left, right, strict=False)]
    found = compute_jaccard(*(hash_shingles(pl.Series(side)) for side in zip(*pairs, strict=True))).to_list()
    for (a, b), similarity in zip(pairs, found, strict=True):
        one, other = reference(a), reference(b)
        if one or other:
            assert similarity == pytest.approx(len(one & other) / len(one | other))


def test_texts_without_spaces_are_compared_too() -> None:
    text = "如果您对我们的产品不满意，请在收到货物之日起三十天内联系客服办理退货，运费由我们承担。"
    close = text.replace("我们承担", "本店承担")
    other = "如果您对我们的产品不满意，请写信告诉经理您的看法，我们会认真改进并且送上一份小礼物。"
    near, far = compute_jaccard(
        hash_shingles(pl.Series([text, text])), hash_shingles(pl.Series([close, other]))
    ).to_list()
    assert 0.7 < near < 1 and far < 0.3
    shared = [set(bands(t)[0] or ()) for t in (text, close, other)]
    assert shared[0] & shared[1] and not shared[0] & shared[2]


def bands(*texts: str, context: str = "", from_other_source: bool = False) -> list[list[int] | None]:
    plain, contexts = (normalize_column(pl.Series(some, dtype=pl.String)) for some in (texts, [context] * len(texts)))
    found: list[list[int] | None] = dedup.hash_bands(
        plain, contexts, np.full(len(texts), from_other_source)
    ).to_pylist()
    return found


def test_similar_texts_share_a_band_and_others_do_not() -> None:
    rng = random.Random(0)
    words = ["".join(letters) for letters in product("abcdefghij", repeat=4)]
    texts = [rng.choices(words, k=60) for _ in range(300)]
    close = [[*t[:30], "changed", *t[31:]] for t in texts]  # similarity 0.90
    near, far = (bands(*(" ".join(t) for t in some)) for some in (texts, close))
    assert all(set(a or ()) & set(b or ()) for a, b in zip(near, far, strict=True))
    assert not any(set(a or ()) & set(b or ()) for a, b in zip(near, far[1:], strict=False))


def test_only_texts_of_one_context_share_bands_and_the_lowest_bit_is_the_mark() -> None:
    text = "one two three four five six seven eight nine"
    assert bands("one two three", "", "1 2 3 4 5 6 7 8", text)[:2] == [None, None], "too short to compare"
    here, there = (set(bands(text, context=context)[0] or ()) for context in ("A page.", "Another page."))
    assert not here & there and {band & 1 for band in here | there} == {0}
    assert set(bands(text, context="a  PAGE.", from_other_source=True)[0] or ()) == {band | 1 for band in here}


@pytest.mark.parametrize(
    ("one", "other", "near"),
    [
        ("the X100", "the X200", False),
        ("the X100", "the X100 in 2026", False),
        ("五十天3件", "三十天3件", True),
        ("10 of 20", "20 of 10", True),
        ("10²", "10³", False),
    ],
)
def test_only_texts_that_name_the_same_numbers_share_bands(one: str, other: str, near: bool) -> None:
    template = "How do I reset {} after it has lost the network that it was connected to, as it does every day?"
    a, b = bands(template.format(one), template.format(other))
    assert bool(set(a or ()) & set(b or ())) == near


def test_keys_ignore_how_a_text_was_typed_and_nothing_else() -> None:
    texts = [
        "How  much?\n  It’s five",
        "how much? it's five",
        "how much it's five",
        "how much? it's 5²",
        "how much? it's 52",
        "",
    ]
    a, b = dedup.hash_texts(normalize_column(pl.Series(texts)))
    assert a[0] == a[1] and b[0] == b[1] and len({*a}) == 5 and len({*b}) == 5


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=40),
    st.integers(1, 6),
    st.sampled_from([1, 7, 1000]),
)
def test_of_equal_documents_the_first_tested_stays(documents: list[tuple[int, bool]], tables: int, most: int) -> None:
    rows = [{"row": row, "key_1": key, "key_2": key << 1 | later} for row, (key, later) in enumerate(documents)]
    parts = [pl.DataFrame(rows[n::tables], schema=dict.fromkeys(rows[0], pl.Int64)) for n in range(tables)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dedup, "MAX_ROWS", most)
        found = sorted(pair for pairs in dedup.find_exact_duplicates(lambda: iter(parts)) for pair in pairs.rows())
    firsts = {key: min((later, row) for row, (k, later) in enumerate(documents) if k == key)[1] for key, _ in documents}
    assert found == [(row, firsts[key]) for row, (key, _) in enumerate(documents) if row != firsts[key]]
