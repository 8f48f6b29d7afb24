"""Grounded or not: single cases, and how often the check errs on pairs that were judged by reading."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from llmops.grounding.groundedness import Groundedness, groundedness

PAIRS = Path(__file__).with_name("groundedness.jsonl")
SAID = ["Standard delivery takes 2 to 4 working days and costs 4.90 euros.", "Payment on delivery is not available."]


@pytest.mark.parametrize(
    ("answer", "grounded"),
    [
        ("Delivery takes two to four working days.", True),
        ("It costs 4,90 euros.", True),
        ("It costs 4.9 euros.", True),
        ("It costs 5 euros.", False),
        ("It costs 14.90 euros.", False),
        ("Payment on delivery is available.", False),
        ("You can’t pay on delivery: payment on delivery isn't available.", True),
        ("Deliveries take 2 working days. We keep the item in the warehouse.", False),
        ("1. Standard delivery\n2. Payment\n7. Working days", True),
        ("The kettle is made of enamelled steel.", False),
        ("Delivery takes ２ to ４ days.", True),
    ],
)
def test_words_numbers_and_what_is_denied(answer: str, grounded: bool) -> None:
    assert judge(answer, SAID).grounded is grounded, judge(answer, SAID)


@pytest.mark.parametrize("nothing", ["", "Yes.", "No.", "..."])
def test_what_says_nothing_by_itself_is_not_judged(nothing: str) -> None:
    assert groundedness(nothing, SAID) is None and groundedness(nothing, []) is None


def judge(answer: str, passages: Sequence[str]) -> Groundedness:
    found = groundedness(answer, passages)
    assert found
    return found


def test_the_number_of_a_name_is_none() -> None:
    assert judge("COVID-19 spreads by droplets.", ["COVID-19, a disease, spreads by droplets."]).grounded
    assert judge("COVID-19 spreads by droplets.", ["The virus spreads by droplets."]).numbers == ()
    assert judge("It takes 1-14 days.", ["It takes 1-14 days."]).numbers == ()
    assert judge("It takes 1-21 days.", ["It takes 1-14 days."]).numbers == ("21",)
    assert judge("1,000 points in 1,5 years", ["1000 points, 1.5 years"]).share == 1


def test_nothing_retrieved_grounds_nothing() -> None:
    assert judge("Delivery takes 2 days.", []).share == 0


@pytest.mark.parametrize("odd", ["\ud800", "\x00" * 9, "配送には二日かかります。", "a" * 50_000, "no " * 5_000])
def test_any_text_can_be_judged(odd: str) -> None:
    found = groundedness(odd, [odd, "Delivery"])
    assert found is None or 0 <= found.share <= 1


def judged(half: str) -> Counter[tuple[bool, bool]]:
    """How many pairs of a half are (said not to be grounded, are not)."""
    counts = Counter[tuple[bool, bool]]()
    for line in PAIRS.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        for pair in row["answers"] if row["half"] == half else ():
            counts[not judge(pair["answer"], [row["passage"]]).grounded, not pair["grounded"]] += 1
    return counts


@pytest.mark.parametrize("half", ["choose", "report"])
def test_how_often_it_errs_is_known(half: str) -> None:
    """docs/retrieval.md has the figures of the half by which nothing was chosen."""
    found = judged(half)
    assert sum(found.values()) >= 100
    precision = found[True, True] / (found[True, True] + found[True, False])
    recall = found[True, True] / (found[True, True] + found[False, True])
    assert precision >= 0.8 and recall >= 0.8, found
