"""Grounded or not: single cases, and how often the check errs on the pairs that were labelled by reading."""

import csv
from collections import Counter
from pathlib import Path

import pytest

from llmops.model.scoring.groundedness import measure_groundedness

DOCS = Path(__file__).parents[3] / "docs"
PASSAGES = [
    "How long does delivery take?: Standard delivery takes 2 to 4 working days and costs 4.90 euros.",
    "Can I pay on delivery?: Payment on delivery is not available. Pay by card or by bank transfer.",
]


@pytest.mark.parametrize(
    ("kind", "answer", "grounded"),
    [
        ("quoted", "Standard delivery takes 2 to 4 working days.", True),
        ("reworded", "Deliveries take two to four working days, and you pay 4,9 euros for standard ones.", True),
        ("denied alike", "You can’t pay on delivery: payment on delivery isn't available.", True),
        ("a list", "1. Standard delivery\n2. Payment by card\n7. Bank transfer", True),
        ("number", "Standard delivery costs 14.90 euros.", False),
        ("reversed", "Payment on delivery is available.", False),
        ("name", "Pay by card, PayPal or Bitcoin on delivery.", False),
        ("half", "Delivery takes 2 to 4 working days. The courier rings twice.", False),
        ("invented", "The kettle is made of enamelled steel.", False),
        ("other digits", "Delivery takes ２ to ５ days.", False),
    ],
)
def test_words_numbers_and_negations(kind: str, answer: str, grounded: bool) -> None:
    found = measure_groundedness(answer, PASSAGES)
    assert found and found.grounded is grounded, found


@pytest.mark.parametrize("nothing", ["", "Yes.", "..."])
def test_an_answer_that_says_nothing_by_itself_is_not_judged(nothing: str) -> None:
    assert measure_groundedness(nothing, PASSAGES) is None


@pytest.mark.parametrize("odd", ["\ud800 parcel", "配送には二日かかります。", "a" * 50_000, "no way " * 5_000])
def test_any_text_is_judged_and_nothing_retrieved_supports_nothing(odd: str) -> None:
    found, alone = measure_groundedness(odd, [odd]), measure_groundedness(odd, [])
    assert found and alone and (found.share, alone.share, alone.grounded) == (1, 0, False)


def test_how_often_it_errs_is_on_the_page() -> None:
    with (DOCS / "grounded_pairs.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    labels = Counter((row["part"], row["grounded"]) for row in rows)
    assert sum(labels.values()) >= 200 and min(labels[p, g] for p in ("development", "test") for g in "01") >= 40
    seen = {
        part: {p for row in rows if row["part"] == part for p in row["passage"].split("\n\n")} for part, _ in labels
    }
    assert not seen["development"] & seen["test"]
    tested = [row for row in rows if row["part"] == "test"]
    judged = [measure_groundedness(row["answer"], row["passage"].split("\n\n")) for row in tested]
    counts = Counter(
        (bool(one and one.grounded), row["grounded"] == "1") for one, row in zip(judged, tested, strict=True)
    )
    lines = (DOCS / "grounding.md").read_text(encoding="utf-8").splitlines()
    for label, name in ((False, "not grounded"), (True, "grounded")):
        precision = counts[label, label] / (counts[label, True] + counts[label, False])
        recall = counts[label, label] / (counts[True, label] + counts[False, label])
        cells = next(line for line in lines if line.startswith(f"| {name}, all |")).split("|")
        assert (cells[2].split()[0], cells[3].split()[0]) == (f"{precision:.2f}", f"{recall:.2f}")
