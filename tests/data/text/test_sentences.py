"""Sentences."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.data.text.sentences import cut, sentences


@pytest.mark.parametrize(
    "text",
    [
        "Dr. Smith pays 3.50 EUR at shop.example.com.",
        "See No. 5, e.g. on 3 Jan. 2026.",
        "J. R. Tolkien wrote it",
        "1. Open the app.",
        "It runs v1. and ends",
        "Wait... what?",
        "No end",
    ],
)
def test_one_sentence_stays_one(text: str) -> None:
    assert sentences(text) == [text]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("He said no. I left.", ["He said no.", "I left."]),
        ('Is it "fine?" (Yes.) Good! Ja', ['Is it "fine?"', "(Yes.)", "Good!", "Ja"]),
        ("Steps:\n- one\n- two\n\nEnd", ["Steps:", "- one", "- two", "End"]),
        ("A broken\nline. Über alles", ["A broken\nline.", "Über alles"]),
        ("Costs 5. Then pay.", ["Costs 5.", "Then pay."]),
        ("你好。今天很好！我们去吗？好", ["你好。", "今天很好！", "我们去吗？", "好"]),
        ("真的?!他说。「好。」 Mac版。Ok", ["真的?!", "他说。", "「好。」", "Mac版。", "Ok"]),
        ("यह एक वाक्य है। यह दूसरा है।", ["यह एक वाक्य है।", "यह दूसरा है।"]),
        ("هل هذا صحيح؟ نعم. هذا جيد.", ["هل هذا صحيح؟", "نعم.", "هذا جيد."]),
        ("What?Who!me", ["What?Who!me"]),
        ("1\n\n", ["1"]),
        ("", []),
    ],
)
def test_sentences_end(text: str, parts: list[str]) -> None:
    assert sentences(text) == parts


def test_cutting_keeps_the_text_as_it_stands() -> None:
    assert cut("One.  Two\nwords.\n\nThree.", 2) == "One.  Two\nwords."
    assert cut("One. Two.", 0) == cut("One. Two.", 2) == cut("One. Two.", 9) == "One. Two."


@given(st.text('aB1.!?") \n-。？」「好।', max_size=60), st.integers(1, 5))
def test_nothing_but_white_space_is_lost(text: str, count: int) -> None:
    assert "".join("".join(sentences(text)).split()) == "".join(text.split())
    assert text.strip().startswith(cut(text, count).strip())
    assert len(sentences(cut(text, count))) <= max(count, 1) or cut(text, count) == text
