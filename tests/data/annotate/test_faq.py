"""Questions and answers in plain text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.data.annotate.faq import find_qa_pairs
from tests.growth import assert_linear


def test_a_question_on_its_own_line_is_answered_by_the_text_after_it() -> None:
    text = "Handbook\n\nWelcome.\n\nWhat is it?\n\nA tool.\n \nFor all.\n\nWho pays?\n\nNobody?\n\nYou do, at last."
    assert find_qa_pairs(text) == [("What is it?", "A tool.\n\nFor all.", ""), ("Nobody?", "You do, at last.", "")]
    code = "Write this:\n\n    x = 5;\n\nand run it."
    assert find_qa_pairs(f"How do I set x?\n\n{code}\n\nΠόσο κοστίζει;\n\nΠέντε.") == [
        ("How do I set x?", code, ""),
        ("Πόσο κοστίζει;", "Πέντε.", ""),
    ]


def test_marked_questions_and_answers_and_an_initial_is_no_mark() -> None:
    text = (
        "Q: How much\nA: Five.\n\nQ2. Is it new?\n\nAnswer: Yes.\nMostly.\n\nWho wrote it?\n\nA. Smith, with\nQ. Jones."
    )
    assert find_qa_pairs(text) == [
        ("How much", "Five.", ""),
        ("Is it new?", "Yes.\nMostly.", ""),
        ("Who wrote it?", "A. Smith, with\nQ. Jones.", ""),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "Frage: Wie viel?\nAntwort: Fünf.\n\nFrage 2: Und dann\nAntwort: Ruhe.",
        "Question : Wie viel?\nRéponse : Fünf.\nQuestion : Und dann\nRéponse : Ruhe.",
        "问：Wie viel?\n答：Fünf.\n问：Und dann\n答：Ruhe.",
    ],
)
def test_questions_are_marked_in_many_languages(text: str) -> None:
    assert find_qa_pairs(text) == [("Wie viel?", "Fünf.", ""), ("Und dann", "Ruhe.", "")]


def test_numbered_headings_part_the_text_and_are_the_context() -> None:
    answer = "    Thirty days:\n\n      * unused\n\n    2. Print it\n\n2.1.1. On islands\n\n    Sixty."
    text = (
        f"Chapter 2. Returns\n\n2.1. How long do I have, if it was sent to an\nisland?\n\n{answer}\n\n"
        "2.2. Refunds\n\n    Soon.\n\nChapter 3. Delivery\n\n3.1. Wie lange dauert es؟\n\n\u00a0\u00a0Drei Tage.\n"
    )
    assert find_qa_pairs(text) == [
        ("How long do I have, if it was sent to an island?", answer.replace("\n    ", "\n").strip(), "Returns"),
        ("Wie lange dauert es؟", "Drei Tage.", "Delivery"),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Why?\n\n",
        "Do you want to know more?\nThen read on.",
        "Q & A\n\nText",
        "1.1. What is it?\n1.2. Who pays?\n\n2. And?\n    2.1. Why?\n\nText.",
        "x" * 300 + "?\n\nYes",
    ],
)
def test_text_without_questions_has_no_pairs(text: str) -> None:
    assert find_qa_pairs(text) == []


@given(st.text("Qa:?1 \n", max_size=200))
def test_no_word_is_invented(text: str) -> None:
    for question, answer, _ in find_qa_pairs(text):
        assert question in text and answer.split()[-1] in text


@pytest.mark.parametrize("unit", ["\n \n", "a?\n\n", "Q1 ", "P: x\n"])
def test_long_hostile_text_costs_no_more_than_linear_time(unit: str) -> None:
    assert_linear(find_qa_pairs, unit)
