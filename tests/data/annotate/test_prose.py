"""Questions and answers in plain text."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.data.annotate.prose import qa_pairs


def test_a_line_of_its_own_that_asks_is_answered_by_what_follows() -> None:
    text = "Handbook\n\nWelcome.\n\nWhat is it?\n\nA tool.\n \nFor all.\n\nWho pays?\n\nNobody?\n\nYou do, in the end."
    assert qa_pairs(text) == [
        ("What is it?", "A tool.\n\nFor all.", ""),
        ("Nobody?", "You do, in the end.", ""),
    ]


def test_a_line_of_code_is_no_question() -> None:
    text = "How do I set x?\n\nWrite this:\n\n    x = 5;\n\nand run it.\n\nΠόσο κοστίζει;\n\nΠέντε."
    assert qa_pairs(text) == [
        ("How do I set x?", "Write this:\n\n    x = 5;\n\nand run it.", ""),
        ("Πόσο κοστίζει;", "Πέντε.", ""),
    ]


def test_marked_questions_and_answers() -> None:
    text = "Q: How much\nA: Five.\n\nQ2. Is it new?\n\nAnswer: Yes.\nMostly.\n\nQuestion 3: And then?\nA: Then rest."
    assert qa_pairs(text) == [
        ("How much", "Five.", ""),
        ("Is it new?", "Yes.\nMostly.", ""),
        ("And then?", "Then rest.", ""),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "Frage: Wie viel?\nAntwort: Fünf.\n\nFrage 2: Und dann\nAntwort: Ruhe.",
        "Frage: Wie viel?\nAntwort: Fünf.\nFrage: Und dann\nAntwort: Ruhe.",
        "**Frage:** Wie viel?\n**Antwort:** Fünf.\n\n**Frage:** Und dann\n**Antwort:** Ruhe.",
        "F: Wie viel?\nA: Fünf.\nF: Und dann\nA: Ruhe.",
        "PREGUNTA: Wie viel?\n\nRESPUESTA: Fünf.\n\nPREGUNTA: Und dann\n\nRESPUESTA: Ruhe.",
        "P: Wie viel?\n\nR: Fünf.\n\nP: Und dann\n\nR: Ruhe.",
        "Question : Wie viel?\nRéponse : Fünf.\nQuestion : Und dann\nRéponse : Ruhe.",
        "Q : Wie viel?\nR : Fünf.\nQ : Und dann\nR : Ruhe.",
        "问：Wie viel?\n答：Fünf.\n问：Und dann\n答：Ruhe.",
        "Вопрос 1: Wie viel?\nОтвет: Fünf.\nВопрос 2: Und dann\nОтвет: Ruhe.",
    ],
)
def test_questions_are_marked_in_many_languages(text: str) -> None:
    assert qa_pairs(text) == [("Wie viel?", "Fünf.", ""), ("Und dann", "Ruhe.", "")]


def test_an_initial_is_no_mark() -> None:
    text = "Who wrote it?\n\nA. Smith, with\nQ. Jones.\n\nWhat is it?\n\nAnswer: a book. Note: P: no mark."
    assert qa_pairs(text) == [
        ("Who wrote it?", "A. Smith, with\nQ. Jones.", ""),
        ("What is it?", "a book. Note: P: no mark.", ""),
    ]


NUMBERED = """Chapter 2. Returns

2.1. How long do I have, if it was sent to an
island?

    Thirty days:

      * unused

    2. Print it

2.1.1. On islands

    Sixty.

2.2. Refunds

    Soon.

Chapter 3. Delivery

3.1. Wie lange dauert es؟

\u00a0\u00a0Drei Tage.
"""


def test_numbered_headings_part_the_text_and_are_the_context() -> None:
    assert qa_pairs(NUMBERED) == [
        (
            "How long do I have, if it was sent to an island?",
            "Thirty days:\n\n  * unused\n\n2. Print it\n\n2.1.1. On islands\n\nSixty.",
            "Returns",
        ),
        ("Wie lange dauert es؟", "Drei Tage.", "Delivery"),
    ]


def test_a_list_of_contents_asks_nothing() -> None:
    assert qa_pairs("1.1. What is it?\n1.2. Who pays?\n\n2. And?\n    2.1. Why?\n\nText.") == []


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
    for question, answer, _ in qa_pairs(text):
        assert question in text and answer.split()[-1] in text


@pytest.mark.parametrize("unit", ["\n", " ", "Q", "?", "\n \n", "a?\n\n", "Q1 ", "P: x\n", "Frage:\n"])
def test_long_hostile_text_costs_no_more_than_linear_time(unit: str) -> None:
    started = time.process_time()
    qa_pairs(unit * 50_000)
    assert time.process_time() - started < 2
