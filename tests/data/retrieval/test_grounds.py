"""Which passages go into a prompt, and when the documents do not say."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmops.config import Grounding
from llmops.data.retrieval.grounds import look_up, room_of, source_of
from tests.data.retrieval.test_search import made


@pytest.mark.parametrize(("least", "found"), [(0.4, 3), (0.6, 0)])
def test_the_nearest_passage_decides_whether_the_documents_say(tmp_path: Path, least: float, found: int) -> None:
    index = made(tmp_path, "One.", "Two.", "Three.", directions=[191, 250, 383])
    assert len(look_up(index, "What?", Grounding(likeness=least), 500).hits) == found


@pytest.mark.parametrize(
    ("room", "context"),
    [
        (500, "A: " + "One word. " * 9 + "Last.\nB: Short."),
        (100, "A: " + "One word. " * 9 + "Last."),
        (90, "A: " + "One word. " * 7 + "One word."),
        (-9, ""),
    ],
)
def test_as_many_as_there_is_room_for_and_the_first_is_cut_at_a_sentence(
    tmp_path: Path, room: int, context: str
) -> None:
    index = made(tmp_path, "A | " + "One word. " * 9 + "Last.", "B | Short.", directions=[0, 191])
    found = look_up(index, "What?", Grounding(), room)
    assert found.context == context and len(found.hits) == len(context.splitlines())
    if context:
        assert source_of(found.hits[0])["title"] == "A" and source_of(found.hits[0])["score"] == pytest.approx(1)
        assert source_of(found.hits[0])["snippet"] == found.hits[0].passage.text


def test_the_passage_that_is_good_enough_is_in_the_prompt_and_dense_text_takes_more_room(tmp_path: Path) -> None:
    index = made(tmp_path, "What what.", "What.", "Nearest.", directions=[100, 101, 0])
    assert look_up(index, "What?", Grounding(passages=1), 500).context == "Nearest."
    (tmp_path / "long").mkdir()
    long = made(tmp_path / "long", f"{'A' * 90} | " + "One word. " * 9, directions=[0])
    assert look_up(long, "What?", Grounding(), 80).context == "One word. " * 6 + "One word."
    assert room_of(300, 100, "é 12") == 2 * (300 - 100 - 128) - 9
