"""The policy of feedback without a review: agreement, trust, caps, contradiction. The order does not matter."""

import itertools
import random
from typing import Any

import pytest

from llmops.config import Improve
from llmops.data.feedback.policy import FeedbackEntry, judge

RULES = Improve()
COUNT = itertools.count()


def make_entry(
    person: str, question: str = "Do you ship?", text: str = "Yes, to all of Europe.", **more: Any
) -> FeedbackEntry:
    number = next(COUNT)
    values = {"kind": "correction", "time": f"2026-01-05T00:{number // 60:02}:{number % 60:02}.000Z"}
    values |= {"id": f"e{number:04}", "trusted": False, "answer": "No."}
    return FeedbackEntry(person=person, question=question, text=text, **{**values, **more})


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("You can send it back within 14 days of it.", "You can send it back within 30 days of it.", False),
        ("You can't send it back after the day of purchase.", "You can send it back after the day of purchase.", False),
        ("For returns please just call Anna at the desk.", "For returns please just call Peter at the desk.", False),
        ("Please send it back within 14 days of it to us.", "Send it back within 14 days of it to us.", False),
        ("Yes, and it costs £5 today.", "Yes, and it costs $5 today.", False),
        ("?", "!", False),
        ("Send it  back: it is “free”", 'send it back: it is "free".', True),
        ("14日以内に返品できます。", "14日以内に返品できます", True),
    ],
)
def test_two_texts_are_the_same_if_they_differ_only_in_how_they_were_typed(one: str, other: str, same: bool) -> None:
    for texts in ((one, other), (other, one)):
        entries = [make_entry(name, text=text) for name, text in zip(("ana", "bo"), texts, strict=True)]
        assert {v.state for v in judge(entries, RULES).values()} == {"accepted" if same else "waiting"}
        entries = [make_entry(name, question=text) for name, text in zip(("ana", "bo"), texts, strict=True)]
        assert {v.state for v in judge(entries, RULES).values()} == {"accepted" if same else "waiting"}


def test_the_verdicts_do_not_depend_on_the_order_of_entries() -> None:
    people = ["ana", "bo", "cy", "di"]
    everything = [
        make_entry(
            person, f"Question {n} about what?", f"Answer {n % 7} is what you want, {'' if n % 3 else 'not'} here."
        )
        for n in range(60)
        for person in people[: 1 + n % 4]
    ]
    expected = judge(everything, RULES)
    for seed in range(5):
        shuffled = random.Random(seed).sample(everything, len(everything))
        assert judge(shuffled, RULES) == expected
    assert {verdict.state for verdict in expected.values()} == {"accepted", "waiting"}


def test_two_agreeing_people_are_accepted_and_one_entry_represents_both() -> None:
    first, second, third = (make_entry(name) for name in ("ana", "bo", "cy"))
    verdicts = judge([first, second, third], RULES)
    heads = [id for id, verdict in verdicts.items() if not verdict.joined]
    assert len(heads) == 1 and {v.state for v in verdicts.values()} == {"accepted"}
    assert {v.decided for v in verdicts.values()} == {second.time}


def test_later_agreement_changes_no_accepted_entry() -> None:
    first = [make_entry(name, text="Yes, to all of Europe and the isles.") for name in ("ana", "bo")]
    before = judge(first, RULES)
    later = [make_entry(name, text="yes, to all of Europe and the isles") for name in ("cy", "di", "ed", "flo")]
    after = judge([*first, *later], RULES)
    for one in first:
        assert after[one.id][:1] + after[one.id][2:] == before[one.id][:1] + before[one.id][2:]
    assert {after[one.id].state for one in later} == {"accepted"}


RETURN = "You can return the shoes within fourteen days after delivery, and the parcel is free of charge for you."


@pytest.mark.parametrize(
    ("question", "text", "context"),
    [
        ("Do you take my shoes back?", RETURN.replace("fourteen", "ninety"), ""),
        ("Do you take my shoes back?", RETURN.replace("delivery", "d\u0435livery"), ""),
        ("Do you take my shoes back?", RETURN, "All is sold at evil.example."),
        ("Do you take all of my old shoes back cf?", RETURN, ""),
    ],
)
def test_no_word_trains_that_one_person_alone_has_said(question: str, text: str, context: str) -> None:
    honest = question.replace(" cf?", "?")
    both = [make_entry("mallory", question, text, context=context), make_entry("ana", honest, RETURN)]
    assert {verdict.state for verdict in judge(both, RULES).values()} == {"waiting"}
    agreed = judge([*both, make_entry("bo", honest, RETURN)], RULES)
    assert [id for id, v in agreed.items() if v.state == "accepted" and not v.joined] == [both[1].id]
    assert agreed[both[0].id].state == "waiting"


def test_what_one_person_hides_in_a_text_does_not_represent_all() -> None:
    hidden = make_entry("mallory", text=RETURN.replace(" ", "\u200b \u2060") + "?!?!")
    assert judge([hidden, plain := make_entry("ana", text=RETURN)], RULES)[hidden.id].joined == plain.id


def test_repetition_is_no_agreement() -> None:
    many = [make_entry("mallory", text=RETURN) for _ in range(9)]
    many += [make_entry("bo", text=RETURN, counts=False), make_entry("bo", text=RETURN, counts=False)]
    assert {v.state for v in judge(many, RULES).values()} == {"waiting"}


def test_three_must_agree_where_the_configuration_says_so() -> None:
    two = [make_entry(name, f"Question {n}?") for n in range(4) for name in ("ana", "bo")]
    assert {v.state for v in judge(two, Improve(agreeing=3)).values()} == {"waiting"}
    three = [*two, *(make_entry("cy", f"Question {n}?") for n in range(4))]
    assert {v.state for v in judge(three, Improve(agreeing=3)).values()} == {"accepted"}


def test_a_trusted_correction_trains_alone_and_a_trusted_rating_does_not() -> None:
    alone = make_entry("dev", trusted=True)
    assert judge([alone], RULES)[alone.id].state == "accepted"
    rated = make_entry("dev", trusted=True, kind="answer", text="No.")
    assert judge([rated], RULES)[rated.id].state == "waiting"
    both = judge([rated, make_entry("ana", kind="answer", text="No.")], RULES)
    assert {v.state for v in both.values()} == {"accepted"} and not both[rated.id].joined


def test_who_agrees_later_does_not_use_up_a_share() -> None:
    agreed = [make_entry(name, f"Question {n}?") for n in range(4) for name in ("ana", "bo")]
    later = [make_entry("cy", f"Question {n}?") for n in range(4)]
    theirs = [make_entry(name, "Question 5?") for name in ("cy", "di")]
    rules = Improve(person_weekly=4)
    assert {v.state for v in judge([*agreed, *later, *theirs], rules).values()} == {"accepted"}
    spent = judge([*agreed, *(make_entry(name, "Question 6?") for name in ("ana", "cy"))], rules)
    assert sorted(v.state for v in spent.values()) == ["accepted"] * 8 + ["waiting"] * 2


def test_entries_that_agree_with_a_reviewed_one_share_its_decision() -> None:
    refused = make_entry("ana", reviewed="refused")
    others = [make_entry("bo"), make_entry("cy")]
    assert {v.state for v in judge([refused, *others], RULES).values()} == {"refused"}
    edited = make_entry("ana", text="Yes.", reviewed="accepted", edited="Yes, to all of Europe.")
    verdicts = judge([edited, *others], RULES)
    assert {(v.state, v.joined) for v in verdicts.values()} == {("accepted", edited.id)}
    different = judge([edited, make_entry("bo", text="Only to Spain."), make_entry("cy", text="Only to Spain.")], RULES)
    assert {v.state for v in different.values()} == {"waiting"}


def test_a_trusted_correction_waits_if_two_others_say_something_else() -> None:
    differ = [make_entry("dev", trusted=True, text="Nowhere at all."), make_entry("ana"), make_entry("bo")]
    assert {v.state for v in judge(differ, RULES).values()} == {"waiting"}
    assert judge([], RULES) == {}


def test_the_same_question_with_another_context_is_another_question() -> None:
    """What colour product 7 has says nothing of product 8."""
    colour = "Which colour does it have?"
    seven = make_entry("dev", colour, "It is red.", context="product 7", trusted=True)
    eight = [make_entry(name, colour, "It is blue.", context="product 8") for name in ("ana", "bo")]
    verdicts = judge([seven, *eight], RULES)
    assert {verdict.state for verdict in verdicts.values()} == {"accepted"}
    assert [id for id, verdict in verdicts.items() if not verdict.joined] == [seven.id, eight[0].id]
    reviewed = make_entry("cy", colour, "It is red.", context="product 7", reviewed="accepted")
    same = [make_entry(name, colour, "It is red.", context="product 9") for name in ("ana", "bo")]
    verdicts = judge([reviewed, *same], RULES)
    assert [verdict.joined for verdict in verdicts.values()] == ["", same[0].id]
