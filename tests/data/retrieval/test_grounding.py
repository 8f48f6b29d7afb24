"""Which passages go into a prompt, and when the documents do not say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from llmops.config import Grounding
from llmops.data.retrieval.file_store import create_vectors, write_passages
from llmops.data.retrieval.grounding import RARE_WORD, compute_room, describe_source, retrieve_context
from llmops.data.retrieval.minilm import DIMENSIONS
from llmops.frame.records import Passage
from tests.data.retrieval.test_search import PLACE, make_index, open_test_index

WORDS = "One word. " * 9 + "Last."


@pytest.mark.parametrize(("least", "found"), [(0.4, 3), (0.6, 0)])
def test_the_nearest_passage_decides_whether_the_documents_say(tmp_path: Path, least: float, found: int) -> None:
    index = make_index(tmp_path, "One.", "Two.", "Three.", directions=[191, 250, 383])
    assert len(retrieve_context(index, "What?", Grounding(likeness=least), 500).hits) == found
    index.likeness = least
    assert len(retrieve_context(index, "What?", Grounding(), 500).hits) == found


def test_a_rare_word_in_common_makes_a_passage_match_better(tmp_path: Path) -> None:
    index = make_index(tmp_path, "One kettle.", *["Other."] * 30, directions=[191, *[383] * 30])
    match, shared = (retrieve_context(index, asked, Grounding(), 500).match for asked in ("What?", "What kettles?"))
    assert match == pytest.approx(0.5, abs=0.01) and shared and 0.8 * RARE_WORD < shared - match < RARE_WORD


def test_a_quote_names_its_passages_and_the_answering_section_comes_first(tmp_path: Path) -> None:
    """The nearest passage is not the one with the best sentence. The answering section is quoted in its order."""
    texts = [("a", "2", "It costs nine euros."), ("b", "1", "Kettles."), ("a", "1", "A kettle boils. Prices follow.")]
    rows = [
        Passage(id=f"{name}{part}", document=name, headings=name, text=text, part=part, **PLACE)
        for name, part, text in texts
    ]
    create_vectors(tmp_path, write_passages(tmp_path, rows))[:] = np.eye(DIMENSIONS, dtype=np.float32)[[3, 0, 4]]
    index = open_test_index(tmp_path, 3)
    index.embedder.__dict__["embed"] = lambda texts: np.eye(2, dtype=np.float32)[
        [int(text not in ("What?", "a: It costs nine euros.")) for text in texts]
    ]
    found = retrieve_context(index, "What?", Grounding(answer="quote"), 500)
    assert [hit.passage.id for hit in found.hits] == ["a1", "a2", "b1"]
    assert found.quote == "a:\nA kettle boils. Prices follow.\n\nIt costs nine euros.\n\nb:\nKettles."
    by_model = retrieve_context(index, "What?", Grounding(), 500)
    assert by_model.hits[0].passage.id == "b1" and by_model.context == found.context


@pytest.mark.parametrize(
    ("headings", "room", "context"),
    [
        ("A", 500, f"A: {WORDS}\nB: Short."), ("A", 100, f"A: {WORDS}"), ("A", 90, "A: " + WORDS[:79]), ("A", -9, ""),
        ("A" * 90, 80, WORDS[:69]),
    ],
)  # fmt: skip
def test_as_many_as_there_is_room_for_and_the_first_is_cut_at_a_sentence(
    tmp_path: Path, headings: str, room: int, context: str
) -> None:
    index = make_index(tmp_path, f"{headings} | {WORDS}", "B | Short.", directions=[0, 191])
    found = retrieve_context(index, "What?", Grounding(), room)
    assert found.context == context and len(found.hits) == len(context.splitlines())
    for source in map(describe_source, found.hits[:1]):
        assert (source["title"], source["score"]) == (headings if len(headings) == 1 else "help", pytest.approx(1))
        assert source["snippet"] == found.hits[0].passage.text


def test_the_passage_that_is_good_enough_is_in_the_prompt_and_dense_text_takes_more_room(tmp_path: Path) -> None:
    index = make_index(tmp_path, "What what.", "What.", "Nearest.", directions=[100, 101, 0])
    assert retrieve_context(index, "What?", Grounding(passages=1), 500).context == "Nearest."
    assert compute_room(300, 100, "é 12") == 2 * (300 - 100 - 128) - 9


def test_a_quote_is_one_run_of_each_passage_around_the_sentences_with_the_questions_rare_words(tmp_path: Path) -> None:
    parcels = "Good. Parcels to islands travel by boat. Well. The boat leaves on Mondays. Fine. So."
    index = make_index(tmp_path, "Lakes | All is well. Boats are slow. We like it.", parcels, "Other.")
    config = Grounding(answer="quote", passages=2)
    found = retrieve_context(index, "Does the boat with Ann's parcels leave on Monday?", config, 500)
    assert found.hits[0].passage.text == parcels
    assert found.quote == f"{parcels[:-10]}\n\nLakes:\nBoats are slow. We like it."
    assert (
        retrieve_context(index, "Zebras?", config, 500).quote
        == ""
        == retrieve_context(index, "Boats?", Grounding(), 500).quote
    )


@pytest.mark.parametrize(
    ("passage", "like_the_question", "quoted"),
    [
        ("Fine. By boat. Not on Mondays. So.", "By boat.", "By boat. Not on Mondays."),
        ("Fine. Ships:\n- boat\n- raft.\nGood.", "Ships:", "Ships:\n- boat\n- raft."),
        ("Fine. Not these.\n- Car. Loud.\n- boat.\nGood.", "- boat.", "Not these.\n- Car. Loud.\n- boat."),
        ("Fine. Do:\n1. Go.\n   Sit.\n2. Row.\nGood.", "Sit.", "Do:\n1. Go.\n   Sit.\n2. Row."),
        ("Fine. Run:\n\nrow --now\n\nGood.", "row --now", "Run:\n\nrow --now"),
        ("Fine. To row: 1. Sit. 2. Go.", "Sit.", "To row: 1. Sit. 2. Go."),
        ("News 2.1 | - raft\n- boat\n\nGood.", "- boat", "News 2.1:\n- raft\n- boat"),
        ("News 2.1 | Fine. By boat.", "By boat.", "By boat."),
    ],
)  # fmt: skip
def test_a_quote_brings_what_belongs_to_the_sentence_that_is_most_like_the_question(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, passage: str, like_the_question: str, quoted: str
) -> None:
    monkeypatch.setattr("llmops.data.retrieval.quote.MAX_QUOTED", 1)
    index = make_index(tmp_path, passage, directions=[0])
    index.embedder.__dict__["embed"] = lambda texts: np.eye(2, dtype=np.float32)[
        [int(text != "What?" and not text.endswith(like_the_question)) for text in texts]
    ]
    assert retrieve_context(index, "What?", Grounding(answer="quote"), 500).quote == quoted
