"""The served index while Elasticsearch does not answer."""

import asyncio
from pathlib import Path
from threading import Event

import pytest

from llmops.config import Grounding, Serving
from llmops.frame.errors import TransientError
from serving.errors import DocumentsDown
from serving.models import documents
from serving.models.documents import Documents
from tests.clock import FakeClock


def test_questions_queued_behind_one_that_got_no_answer_do_not_wait_for_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, all_are_queued = list[str](), Event()

    def get_no_answer(index: object, question: str, config: Grounding, room: int) -> None:
        asked.append(question)
        assert all_are_queued.wait(30)
        raise TransientError("Elasticsearch does not answer.")

    monkeypatch.setattr(documents, "retrieve_context", get_no_answer)
    monkeypatch.setattr(Documents, "_follow_index", lambda self: "an index")
    served = Documents(tmp_path, Grounding(enabled=True), Serving(), clock=FakeClock())

    async def ask_together() -> list[object]:
        questions = [asyncio.create_task(served.look_up(name, 500, "model")) for name in ("first", "second", "third")]
        while served._waiting < len(questions):
            await asyncio.sleep(0)
        all_are_queued.set()
        return await asyncio.gather(*questions, return_exceptions=True)

    ended = asyncio.run(ask_together())
    assert [type(error) for error in ended] == [DocumentsDown] * 3 and asked == ["first"]
    monkeypatch.undo()
    served.close()
