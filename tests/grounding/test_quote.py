"""What is quoted: the best sentence, with those beside it in its passage that are most like the question."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.data.index.ranking import Hit
from llmops.grounding.quote import quote
from llmops.records import Passage


class Likes:
    """Says how like the question each sentence is by the number that ends it."""

    def embed_beginnings(self, texts: Sequence[str]) -> Any:
        return np.array([[1.0]] + [[float(text.rstrip(".").split()[-1]) / 10] for text in texts[1:]])


def hit(*numbers: int) -> Hit:
    text = " ".join(f"Sentence is like {number}." for number in numbers)
    passage = Passage(id="p", document="d", source="s", location="l", position="", headings="H", text=text)
    return Hit(passage, 1.0, None, None, None)


def quoted(*hits: Hit) -> tuple[list[int], int]:
    embedder: Any = Likes()
    text, of = quote("q", hits, embedder)
    return [int(word.rstrip(".")) for word in text.split() if word[0].isdigit()], of


@pytest.mark.parametrize(
    ("numbers", "found"),
    [
        ((1, 2, 9, 4, 5), [9, 4, 5]),
        ((1, 7, 9, 4, 1), [7, 9, 4]),
        ((6, 7, 9), [6, 7, 9]),
        ((9, 7, 6, 1), [9, 7, 6]),
        ((3, 9), [3, 9]),
        ((9,), [9]),
    ],
)
def test_the_best_sentence_comes_with_those_beside_it(numbers: tuple[int, ...], found: list[int]) -> None:
    assert quoted(hit(*numbers)) == (found, 0)


def test_all_of_it_is_of_the_passage_with_the_best_sentence() -> None:
    assert quoted(hit(5, 6, 5), hit(1, 9), hit(8, 8, 8)) == ([1, 9], 1)


def test_where_there_is_no_sentence_nothing_is_quoted() -> None:
    assert quoted() == ([], 0)


@given(st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=6), min_size=1, max_size=4))
def test_it_has_the_best_sentence_and_stands_so_in_its_passage(numbers: list[list[int]]) -> None:
    found, of = quoted(*[hit(*some) for some in numbers])
    assert max(found) == max(map(max, numbers)) and 1 <= len(found) <= 3
    assert any(numbers[of][n : n + len(found)] == found for n in range(len(numbers[of])))
