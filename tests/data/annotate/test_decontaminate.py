"""What is too close to the held-out side: exactly what comparing all with all finds."""

import re
from collections.abc import Iterable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmops.data.annotate import decontaminate
from llmops.data.annotate.decontaminate import NEAR, RUN, in_batches
from llmops.data.text.ngrams import MIN_WORDS, SHINGLE

RUN_OF_13 = "one two three four five six seven eight nine ten eleven twelve thirteen"


def grams(words: list[str], size: int) -> set[tuple[str, ...]]:
    return {tuple(words[i : i + size]) for i in range(len(words) - size + 1)}


def close(left: str, right: str) -> bool:
    a, b = re.findall(r"\w+", left.lower()), re.findall(r"\w+", right.lower())
    near = 0.0
    if min(len(a), len(b)) >= MIN_WORDS:
        x, y = grams(a, SHINGLE), grams(b, SHINGLE)
        near = len(x & y) / len(x | y)
    return bool(a and a == b) or near >= NEAR or bool(grams(a, RUN) & grams(b, RUN))


def overlaps(training: Iterable[str], held_out: Sequence[str]) -> decontaminate.Found:
    texts = list(training)
    return decontaminate.overlaps_of(lambda: in_batches(texts), in_batches(held_out))


words = st.lists(st.sampled_from(["a", "b", "c", "d", "e f g", "h i j k l m n"]), max_size=14).map(" ".join)


@settings(max_examples=100, deadline=None)
@given(st.lists(words, max_size=6), st.lists(words, max_size=6))
def test_with_little_memory_it_finds_what_comparing_all_to_all_does(training: list[str], held_out: list[str]) -> None:
    found = overlaps(training, held_out)
    for index, text in enumerate(training):
        twins = [other for other, held in enumerate(held_out) if close(text, held)]
        assert (index in found) == bool(twins)
        assert not twins or found[index][0] in twins
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("BATCH", 2), ("WORDS", 9), ("MOST", 2), ("PAIRS", 1)):
            patch.setattr(decontaminate, name, value)
        assert overlaps(training, held_out) == found


@pytest.mark.parametrize(
    ("text", "held", "shared"),
    [
        ("How MUCH is it?!", "how much, is it", "the same words"),
        (f"x y z {RUN_OF_13} a b c", f"Before {RUN_OF_13}. After it", f"13 words in a row, '{RUN_OF_13}'"),
        ("我的包裹什么时候能够送到我家里来呢", "我的包裹什么时候能够送到我家里来", "86% of all their runs of 3 words"),
    ],
)
def test_it_says_what_is_shared(text: str, held: str, shared: str) -> None:
    assert overlaps(["other", text], ["something", held]) == {1: (1, shared)}


@pytest.mark.parametrize(
    ("text", "held"),
    [
        ("?!", "..."),
        ("Can I get it from my cat?", "Can I get it from my dog?"),
        (
            "退货需要几天？三十天之内。如有任何问题，请随时联系我们的客服。",
            "运费是多少？五元。如有任何问题，请随时联系我们的客服。",
        ),
        (RUN_OF_13.removesuffix("thirteen") + "a b c", "x y z u v w " + RUN_OF_13.removesuffix("thirteen")),
    ],
)
def test_what_is_only_similar_stays(text: str, held: str) -> None:
    assert overlaps([text], [held]) == overlaps([], [held]) == overlaps([text], []) == {}
