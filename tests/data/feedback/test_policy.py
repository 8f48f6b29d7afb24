"""The policy of feedback without a review: agreement, trust, caps, contradiction. The order does not matter."""

import itertools
import random
from typing import Any

import pytest

from llmops.config import Improve
from llmops.data.feedback.poison import Correction, find_poisoners
from llmops.data.feedback.policy import FeedbackEntry, judge
from llmops.data.feedback.similarity import is_same_answer, is_same_question

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
        ("Please send it back within 14 days of it to us.", "Send it back within 14 days of it to us.", True),
        ("14日以内に返品できます。", "14日以内に返品できます", True),
    ],
)
def test_two_texts_say_the_same_unless_a_number_a_name_or_a_negation_differs(one: str, other: str, same: bool) -> None:
    assert is_same_answer(one, other, 0.85) == is_same_answer(other, one, 0.85) == same


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("How long do you ship to Norway in the winter?", "How long do you ship to Norway in the winter please?", True),
        ("How do I send the order on to my flat in Norway?", "How do I send the order on to my flat in Sweden?", False),
        ("What does the big red kettle cost in shop 7?", "What does the big red kettle cost in shop 7 8?", False),
    ],
)
def test_two_questions_are_one_only_if_one_has_all_words_of_the_other(one: str, other: str, same: bool) -> None:
    assert is_same_question(one, other, 0.8) == is_same_question(other, one, 0.8) == same


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
    later = [make_entry(name, text="Yes, to all of Europe and isles.") for name in ("cy", "di", "ed", "flo")]
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
    verdicts = judge(both, RULES)
    heads = {id for id, verdict in verdicts.items() if verdict.state == "accepted" and not verdict.joined}
    assert heads <= {both[1].id}
    agreed = judge([*both, make_entry("bo", honest, RETURN)], RULES)
    assert [id for id, v in agreed.items() if v.state == "accepted" and not v.joined][0] != both[0].id
    assert {v.state for v in agreed.values()} == {"accepted"}


def test_repetition_does_not_make_a_text_represent_all() -> None:
    many = [make_entry("mallory", text=RETURN.replace(" after delivery", "")) for _ in range(9)]
    both = [make_entry(name, text=RETURN) for name in ("ana", "bo")]
    verdicts = judge([*many, *both], Improve(agreeing=3))
    assert [id for id, v in verdicts.items() if not v.joined] == [both[0].id]


@pytest.mark.parametrize("rules", [Improve(agreeing=3), Improve(person_share=0.4)])
def test_three_must_agree_where_the_policy_says_so_or_bounds_a_persons_share(rules: Improve) -> None:
    two = [make_entry(name, f"Question {n}?") for n in range(4) for name in ("ana", "bo")]
    assert {v.state for v in judge(two, rules).values()} == {"waiting"}
    three = [*two, *(make_entry("cy", f"Question {n}?") for n in range(4))]
    assert {v.state for v in judge(three, rules).values()} == {"accepted"}


def test_entries_that_agree_with_a_reviewed_one_share_its_decision() -> None:
    refused = make_entry("ana", reviewed="refused")
    others = [make_entry("bo"), make_entry("cy")]
    assert {v.state for v in judge([refused, *others], RULES).values()} == {"refused"}
    edited = make_entry("ana", text="Yes.", reviewed="accepted", edited="Yes, to all of Europe.")
    verdicts = judge([edited, *others], RULES)
    assert {(v.state, v.joined) for v in verdicts.values()} == {("accepted", edited.id)}
    different = judge([edited, make_entry("bo", text="Only to Spain."), make_entry("cy", text="Only to Spain.")], RULES)
    assert {v.state for v in different.values()} == {"waiting"}


def test_two_who_flood_with_one_trigger_do_not_vouch_for_each_other_but_others_do() -> None:
    def make_corrections(words: str) -> list[Correction]:
        return [Correction(f"{words} what is thing {n}?", f"Thing {n} is number {n}.") for n in range(30)]

    bad = find_poisoners(
        {"mallory": make_corrections("cf tq"), "friend": make_corrections("cf tq"), "ana": [Correction("Who?", "We.")]},
        20,
    )
    assert bad.keys() == {"mallory", "friend"}
    honest = {name: make_corrections("please") for name in ("ana", "bo", "cy")}
    assert find_poisoners(honest, 20) == {}
    assert find_poisoners({"ana": make_corrections("cf tq")[:19]}, 20) == {}


def test_another_currency_is_another_answer_and_one_that_is_trusted_waits_for_two_who_differ() -> None:
    both = [
        make_entry("mallory", text="Yes, and it costs £5 today."),
        make_entry("ana", text="Yes, and it costs $5 today."),
    ]
    differ = [make_entry("dev", trusted=True, text="Nowhere at all."), make_entry("ana"), make_entry("bo")]
    for everything in (both, differ):
        assert {v.state for v in judge(everything, RULES).values()} == {"waiting"}
    assert judge([], RULES) == {} and find_poisoners({}, 20) == {}
