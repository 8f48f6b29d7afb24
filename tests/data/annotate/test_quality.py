"""Pairs that are not worth learning from, and good ones that look like them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.data.annotate.quality import broken_rule

LINES = "\n".join(["Opening hours", "Monday to Friday", "Opening hours", "Opening hours", "Saturday"])
PHRASE = "Please note that our offices are closed on that day"


@pytest.mark.parametrize(
    ("rule", "question", "answer"),
    [
        ("no_words", "Where is the form?", "https://example.com/forms/returns.pdf"),
        ("no_words", "Where?", "www.example.com/x - ana@example.com"),
        ("no_words", "Who?", "<EMAIL_ADDRESS>, <PHONE_NUMBER>."),
        ("no_words", "?!", "Yes."),
        ("no_words", "<SECRET>", "Yes."),
        ("echo", "How do I pay?", "how do I pay"),
        ("broken_off", "What do I need?", "You need the following:"),
        ("broken_off", "What do I need?", "You need a passport,"),
        ("broken_off", "What do I need?", "You need a passport and"),
        ("broken_off", "What do I need?", "A passport (or the"),
        ("repeated_lines", "When?", LINES),
        ("stuttering", "Ha?", "Well ha ha ha ha ha ha."),
        ("stuttering", "Go?", "go on go on go on go on go on"),
        ("stuttering", "Go?", "one two three four " * 5),
        ("repeated_phrases", "Open?", f"{PHRASE}. No. {PHRASE}. Maybe. {PHRASE}."),
        ("repeated_phrases", "Open?", f"{PHRASE}. {PHRASE}."),
    ],
)
def test_bad_pairs_are_named(rule: str, question: str, answer: str) -> None:
    found = broken_rule(question, answer)
    assert found and found[0] == rule and found[1]


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("How much?", "5"),
        ("How much?", "€ 9.50"),
        ("Is it?", "Yes"),
        ("Where is the form?", "At https://example.com/forms"),
        ("Mail?", "Write to <EMAIL_ADDRESS>"),
        ("Which plan?", "You are on plan A"),
        ("Where?", "In Portland, OR"),
        ("Broken?", "Sorry to hear that :("),
        ("Open?", "Yes (until 8)"),
        ("Code?", "0 0 0 0 0 0"),
        ("PIN?", "Dial 1 1 1 1 1 1 1."),
        ("Numbers?", "<PHONE_NUMBER> <PHONE_NUMBER> <PHONE_NUMBER> <PHONE_NUMBER> <PHONE_NUMBER> <PHONE_NUMBER> each"),
        ("Sure?", "Yes, yes, yes, you can."),
        ("Hours?", "Monday: 9 to 5\nTuesday: 9 to 5\nWednesday: 9 to 5\nThursday: 9 to 5"),
        ("Sizes?", "- S\n- M\n- L\n- XL"),
        ("退货需要多少天？", "三十天之内。"),
    ],
)
def test_good_pairs_stay(question: str, answer: str) -> None:
    assert broken_rule(question, answer) is None


@given(st.text(max_size=80), st.text("ab :,(\n<>_@./", max_size=80))
def test_any_text_is_judged(question: str, answer: str) -> None:
    assert broken_rule(question, answer) is None or all(broken_rule(question, answer) or ())
