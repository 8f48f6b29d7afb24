"""What `grounding.likeness` lets through: what people asked in other words than a real FAQ, and of another domain.

The default was chosen on the half of each that is not asked here. docs/retrieval.md has the figures.
"""

from __future__ import annotations

import csv
import zlib
from pathlib import Path

import pytest

from llmops import artifacts, config, pipeline
from llmops.artifacts import Record
from llmops.config import Grounding
from llmops.data.text.comparable import comparable
from llmops.grounding.retriever import Retriever
from llmops.records import Document, content_id, write_rows

from ..event_server import shared

DAY = "2026-01-31"


def rows(name: str) -> list[dict[str, str]]:
    with open(shared(f"data/{name}"), encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def reported(key: str) -> bool:
    """Whether what belongs to a question or topic is of the half by which nothing was chosen."""
    return zlib.crc32(key.encode()) % 2 == 1


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    documents = [
        Document(
            id=content_id(row["question"], str(n)), source="faq", location="faq.csv", position=f"row {n}",
            question=" ".join(row["question"].split()), answer=row["answer"],
        )
        for n, row in enumerate(rows("covid_faq.csv"), 1)
    ]  # fmt: skip
    clean = home / "artifacts" / "clean" / "c"
    write_rows(clean / "documents" / "part-0.parquet", documents, Document)
    artifacts.commit(clean, Record("clean", "c", {}, {}, DAY, "c", {}, {}, git_commit="", started=DAY, finished=DAY))
    settings = config.load(overrides={"home": str(home)}, environ={})
    return pipeline.run_stage("index", settings, DAY, {"clean": clean})


def refused(index: Path, questions: list[str]) -> float:
    with Retriever(index, Grounding()) as retriever:
        return sum(not retriever.find(question) for question in questions) / len(questions)


@pytest.mark.slow
def test_questions_of_another_domain_are_refused(index: Path) -> None:
    asked = [row["text"] for row in rows("banking77_test.csv")[::10] if reported(row["category"])]
    assert len(asked) > 100 and refused(index, asked) >= 0.9


def test_questions_in_other_words_are_not(index: Path) -> None:
    asked = [other for one, other in reworded() if reported(one)]
    assert len(asked) > 100 and refused(index, asked) <= 0.05


def test_questions_in_other_words_find_what_answers_them(index: Path) -> None:
    """`benchmarks/retrieval.py` has the figures, of wordings that are none of the FAQ's own: .937 among five."""
    known = {comparable(row["question"]): f"row {n}" for n, row in enumerate(rows("covid_faq.csv"), 1)}
    asked = [(known[comparable(one)], other) for one, other in reworded() if comparable(other) not in known]
    with Retriever(index, Grounding()) as retriever:
        best = [[hit.passage.position for hit in retriever.best(other, 5)] for _, other in asked]
    found = sum(place in places for (place, _), places in zip(asked, best, strict=True))
    assert len(asked) > 200 and found >= 0.9 * len(asked)


def reworded() -> list[tuple[str, str]]:
    """Questions of the FAQ, and other wordings that people judged to ask the same."""
    known = {comparable(row["question"]) for row in rows("covid_faq.csv")}
    pairs = [(row["question_1"], row["question_2"]) for row in rows("covid_paraphrases.csv") if row["similar"] == "1"]
    return [(one, other) for one, other in pairs if comparable(one) in known]
