"""Questions and answers in plain text."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.data.annotate.prose import qa_pairs


def test_a_line_of_its_own_that_asks_is_answered_by_what_follows() -> None:
    text = "Handbook\n\nWelcome.\n\nWhat is it?\n\nA tool.\n \nFor all.\n\nWho pays?\n\nNobody?\n\nYou do, in the end."
    assert qa_pairs(text) == [("What is it?", "A tool.\n\nFor all."), ("Nobody?", "You do, in the end.")]


def test_marked_questions_and_answers() -> None:
    text = "Q: How much\nA: Five.\n\nQ2. Is it new?\n\nAnswer: Yes.\nMostly.\n\nQuestion 3: And then?\nA: Then rest."
    assert qa_pairs(text) == [("How much", "Five."), ("Is it new?", "Yes.\nMostly."), ("And then?", "Then rest.")]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "No question.",
        "Why?",
        "Why?\n\n",
        "Do you want to know more?\nThen read on.",
        "Q & A\n\nText",
        "x" * 300 + "?\n\nYes",
    ],
)
def test_prose_has_none(text: str) -> None:
    assert qa_pairs(text) == []


@given(st.text("Qa:?1 \n", max_size=200))
def test_no_word_is_invented(text: str) -> None:
    for question, answer in qa_pairs(text):
        assert question in text and answer.split()[-1] in text


@pytest.mark.parametrize("unit", ["\n", " ", "Q", "?", "\n \n", "a?\n\n", "Q1 "])
def test_long_hostile_text_costs_no_more_than_linear_time(unit: str) -> None:
    started = time.perf_counter()
    qa_pairs(unit * 50_000)
    assert time.perf_counter() - started < 2
