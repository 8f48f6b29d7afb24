"""Questions that are made from pages: what they ask, and of which sections."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.data.annotate.prose import made_pairs
from llmops.records import Document, content_id


def page(text: str, context: str = "", location: str = "a.html", question: str = "") -> Document:
    return Document(
        id=content_id(text, location), source="pages", location=location, position="line 1", text=text,
        context=context, question=question,
    )  # fmt: skip


def asked(*documents: Document) -> dict[str, str]:
    return {question: answer for document in documents for question, answer in made_pairs(document)}


@pytest.mark.parametrize(
    ("sentence", "question"),
    [
        ("A vault is a room that holds what nobody may see.", "What is a vault?"),
        ("The data index is the file that says what lies where.", "What is the data index?"),
        ("Feast is a feature store that many companies use today.", "What is Feast?"),
        ("Snapshots are the copies that are made every night.", "What are Snapshots?"),
        ("This is a page that tells what the shop sells.", "Opening hours today"),
        ("It is the first of three steps to take today.", "Opening hours today"),
        ("The shop opens at nine and closes at six.", "Opening hours today"),
        ("The door of the vault is open from nine to six.", "Opening hours today"),
    ],
)
def test_it_asks_for_what_is_defined_else_for_the_heading(sentence: str, question: str) -> None:
    said = f"{sentence} Nobody knows why that is so."
    assert asked(page(f"{said} A third sentence is not in the answer.", "Opening hours today")) == {question: said}


def test_a_short_heading_is_asked_for_with_the_one_above_it() -> None:
    text = "The shop opens at nine and closes at six."
    assert asked(page(text, "Opening hours › Sundays")) == {"Opening hours: Sundays": text}
    assert asked(page(text, "Shops › Opening hours on Sundays")) == {"Opening hours on Sundays": text}


def test_each_numbered_section_of_a_long_text_is_asked_for() -> None:
    text = (
        "2.1. Tickets\n\nTickets are sold on the first floor, beside the lift.\n\n"
        "2.2. Things that were lost\n\nWhat was found is kept for thirty days.\n\nSecond paragraph here."
    )
    assert asked(page(text, "Manual")) == {
        "Manual: Tickets": "Tickets are sold on the first floor, beside the lift.",
        "Things that were lost": "What was found is kept for thirty days. Second paragraph here.",
    }


@pytest.mark.parametrize(
    "document",
    [
        page("The shop opens at nine and closes at six."),  # under no heading
        page("Read this:", "Opening hours"),
        page("for x in range(9): print(x)", "Code"),
        page("The shop opens at nine and closes at six.", "One two three " * 5),
        page("The shop opens at nine and closes at six.", "Opening hours", question="When does it open?"),
        page("", "Opening hours"),
    ],
)
def test_what_asks_or_says_nothing_makes_none(document: Document) -> None:
    assert asked(document) == {}


@given(st.text(string.printable + "äß。？", max_size=300), st.text(max_size=80))
def test_answers_stand_in_the_page_and_nothing_is_asked_without_a_word(text: str, context: str) -> None:
    said = " ".join(text.split())
    for question, answer in asked(page(text, context)).items():
        assert any(character.isalnum() for character in question)
        assert " ".join(answer.split())[:20] in said
