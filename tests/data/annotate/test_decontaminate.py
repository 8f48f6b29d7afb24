"""Decontamination finds exactly the texts that a comparison of all with all finds."""

import re
from collections.abc import Iterable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmops.data.annotate import decontaminate
from llmops.data.annotate.decontaminate import MIN_JACCARD, NGRAM_WORDS, split_into_batches
from llmops.data.text.ngrams import MIN_WORDS, SHINGLE_WORDS

THIRTEEN_WORDS = "one two three four five six seven eight nine ten eleven twelve thirteen"


def make_ngrams(words: list[str], size: int) -> set[tuple[str, ...]]:
    return {tuple(words[i : i + size]) for i in range(len(words) - size + 1)}


def is_too_close(left: str, right: str) -> bool:
    a, b = re.findall(r"\w+", left.lower()), re.findall(r"\w+", right.lower())
    near = 0.0
    if min(len(a), len(b)) >= MIN_WORDS:
        x, y = make_ngrams(a, SHINGLE_WORDS), make_ngrams(b, SHINGLE_WORDS)
        near = len(x & y) / len(x | y)
    return bool(a and a == b) or near >= MIN_JACCARD or bool(make_ngrams(a, NGRAM_WORDS) & make_ngrams(b, NGRAM_WORDS))


def find_overlaps(training: Iterable[str], held_out: Sequence[str]) -> decontaminate.Overlaps:
    return decontaminate.find_overlaps(split_into_batches(list(training)), split_into_batches(held_out))


words = st.lists(st.sampled_from(["a", "b", "c", "d", "e f g", "h i j k l m n"]), max_size=14).map(" ".join)


@settings(max_examples=100, deadline=None)
@given(st.lists(words, max_size=6), st.lists(words, max_size=6))
def test_with_little_memory_the_result_is_that_of_comparing_all_with_all(
    training: list[str], held_out: list[str]
) -> None:
    found = find_overlaps(training, held_out)
    for index, text in enumerate(training):
        twins = [other for other, held in enumerate(held_out) if is_too_close(text, held)]
        assert (index in found) == bool(twins)
        assert not twins or found[index][0] in twins
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("BATCH", 2), ("PAIR_BATCH", 1)):
            patch.setattr(decontaminate, name, value)
        assert find_overlaps(training, held_out) == found


@pytest.mark.parametrize(
    ("text", "held", "shared"),
    [
        ("How MUCH is it?!", "how much, is it", "the same words"),
        (
            f"x y z {THIRTEEN_WORDS} a b c",
            f"Before {THIRTEEN_WORDS}. After it",
            f"13 words in a row, '{THIRTEEN_WORDS}'",
        ),
        ("我的包裹什么时候能够送到我家里来呢", "我的包裹什么时候能够送到我家里来", "86% of all their runs of 3 words"),
    ],
)
def test_the_detail_names_the_shared_part(text: str, held: str, shared: str) -> None:
    assert find_overlaps(["other", text], ["something", held]) == {1: (1, shared)}


@pytest.mark.parametrize(
    ("text", "held"),
    [
        ("?!", "..."),
        ("Can I get it from my cat?", "Can I get it from my dog?"),
        (
            "退货需要几天？三十天之内。如有任何问题，请随时联系我们的客服。",
            "运费是多少？五元。如有任何问题，请随时联系我们的客服。",
        ),
        (THIRTEEN_WORDS.removesuffix("thirteen") + "a b c", "x y z u v w " + THIRTEEN_WORDS.removesuffix("thirteen")),
    ],
)
def test_texts_that_are_only_similar_stay(text: str, held: str) -> None:
    assert find_overlaps([text], [held]) == find_overlaps([], [held]) == find_overlaps([text], []) == {}
