"""The least match of an answer, chosen by the documents themselves."""

from pathlib import Path

import pytest

from llmops.data.index import likeness
from llmops.data.index.likeness import choose_likeness
from llmops.data.index.vectors import write_vectors
from llmops.data.retrieval.file_store import write_passages
from llmops.data.retrieval.search import USUAL_LIKENESS
from llmops.frame.records import Passage

THINGS = [
    "kettle", "tent", "lamp", "rope", "boat", "stove", "knife", "mirror", "blanket", "compass", "bicycle", "piano",
    "violin", "printer", "camera", "telescope", "hammer", "ladder", "fridge", "oven", "candle", "umbrella", "suitcase",
]  # fmt: skip


def write_index(folder: Path, passages: list[Passage]) -> Path:
    folder.mkdir()
    write_passages(folder, passages)
    write_vectors(folder, [])
    return folder


def make_passage(number: int, headings: str, text: str) -> Passage:
    place = {"source": "help", "location": "a.html", "position": f"section {number}"}
    return Passage(id=f"p{number}", document=f"d{number}", headings=headings, text=text, **place)


def test_own_questions_lower_the_value_where_answers_use_other_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = list[Path]()
    for name, text in (
        ("near", "The {0} is heavy: it weighs as much as a {0} of iron."),
        ("far", "See the box below."),
    ):
        things = [make_passage(n, f"How heavy is the {thing}?", text.format(thing)) for n, thing in enumerate(THINGS)]
        folders.append(write_index(tmp_path / name, things))
    assert choose_likeness(folders[0])["chosen"] == USUAL_LIKENESS  # they match better: nothing is raised
    monkeypatch.setattr(likeness, "USUAL_LIKENESS", 0.99)
    high, low = map(choose_likeness, folders)
    assert high["questions"] == low["questions"] == len(THINGS)
    assert low["chosen"] < high["chosen"] < 0.99 and 0 <= high["others_refused"] <= 1


def test_a_document_that_asks_nothing_is_asked_for_a_sentence_of_its_own(tmp_path: Path) -> None:
    first = "The {0} stands in the hall on the left, where it has stood for years and years."
    text = f"{first} It is cleaned with warm water once a week by the people of the house."
    passages = [make_passage(n, "Things", text.format(thing)) for n, thing in enumerate(THINGS)]
    twice = [*passages, *(make_passage(n, "Things", text.format("door")) for n in range(3))]
    assert choose_likeness(write_index(tmp_path / "sentences", twice))["questions"] == len(THINGS)


def test_too_few_questions_choose_the_usual_value(tmp_path: Path) -> None:
    few = [make_passage(n, "What is it?", "A kettle.") for n in range(likeness.MIN_ASKED - 1)]
    chosen = choose_likeness(write_index(tmp_path / "few", few))
    assert chosen == {"chosen": USUAL_LIKENESS, "questions": likeness.MIN_ASKED - 1}
    assert choose_likeness(write_index(tmp_path / "none", [])) == {"chosen": USUAL_LIKENESS, "questions": 0}
