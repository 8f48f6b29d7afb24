"""Which passages go into a prompt, and when the documents do not say."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmops.config import Grounding
from llmops.data.retrieval.grounds import look_up, room_of, source_of
from tests.data.retrieval.test_search import made

WORDS = "One word. " * 9 + "Last."


@pytest.mark.parametrize(("least", "found"), [(0.4, 3), (0.6, 0)])
def test_the_nearest_passage_decides_whether_the_documents_say(tmp_path: Path, least: float, found: int) -> None:
    index = made(tmp_path, "One.", "Two.", "Three.", directions=[191, 250, 383])
    assert len(look_up(index, "What?", Grounding(likeness=least), 500).hits) == found


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
    index = made(tmp_path, f"{headings} | {WORDS}", "B | Short.", directions=[0, 191])
    found = look_up(index, "What?", Grounding(), room)
    assert found.context == context and len(found.hits) == len(context.splitlines())
    for source in map(source_of, found.hits[:1]):
        assert (source["title"], source["score"]) == (headings if len(headings) == 1 else "help", pytest.approx(1))
        assert source["snippet"] == found.hits[0].passage.text


def test_the_passage_that_is_good_enough_is_in_the_prompt_and_dense_text_takes_more_room(tmp_path: Path) -> None:
    index = made(tmp_path, "What what.", "What.", "Nearest.", directions=[100, 101, 0])
    assert look_up(index, "What?", Grounding(passages=1), 500).context == "Nearest."
    assert room_of(300, 100, "é 12") == 2 * (300 - 100 - 128) - 9
