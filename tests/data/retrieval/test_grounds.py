"""Which passages go into a prompt, and when the documents do not say."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmops.config import Grounding
from llmops.data.retrieval.grounds import look_up, source_of
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
        (-9, "A: " + "One word. " * 6 + "One word."),
    ],
)
def test_as_many_as_there_is_room_for_and_the_first_is_cut_at_a_sentence(
    tmp_path: Path, room: int, context: str
) -> None:
    index = made(tmp_path, "A | " + "One word. " * 9 + "Last.", "B | Short.", directions=[0, 191])
    found = look_up(index, "What?", Grounding(), room)
    assert found.context == context and len(found.hits) == context.count("\n") + 1
    assert source_of(found.hits[0])["title"] == "A" and source_of(found.hits[0])["score"] == pytest.approx(1)
