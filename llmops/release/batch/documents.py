"""The engine of a batch with documents: it answers from passages or refuses, by the rule of the app."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from llmops.config import Grounding, SearchServer
from llmops.data.retrieval.grounding import (
    MIN_ROOM,
    REFUSAL,
    TIGHT_ROOM,
    RetrievedContext,
    compute_room,
    retrieve_context,
)
from llmops.data.retrieval.search import Index, open_index
from llmops.frame import artifacts
from llmops.frame.records import make_content_id
from llmops.release.batch.engine import LocalEngine, RowReply


class GroundedEngine:
    """A `LocalEngine` whose questions without a context of their own are looked up in the documents.

    Args:
        engine: the engine that answers.
        grounding: the settings, with the answer mode of the engine's version.
        window: tokens of a prompt and its answer, see `compute_window`.
        folder: the index; None: no documents are served, and the model answers without them.
        server: the Elasticsearch that searches the index; None: its files are searched.
    """

    grounded = True

    def __init__(
        self, engine: LocalEngine, grounding: Grounding, window: int, folder: Path | None, server: SearchServer | None
    ) -> None:
        self._engine, self._grounding, self._window = engine, grounding, window
        self._folder, self._server = folder, server
        record = (folder / artifacts.RECORD).read_text(encoding="utf-8") if folder else ""
        settings = json.dumps([grounding.model_dump(mode="json", exclude={"elasticsearch"}), window], sort_keys=True)
        #: an interrupted job continues only with the same documents and settings
        self.name = f"{engine.name}, with documents {make_content_id(record, settings)}"

    def answer(self, requests: Sequence[tuple[str, str]]) -> list[RowReply]:
        """See `LocalEngine.answer`. A question without a passage is refused, and a quote needs no model."""
        if self._folder is None:
            return [replace(reply, from_documents=False) for reply in self._engine.answer(requests)]
        replies: dict[int, RowReply] = {}
        passages: dict[int, RetrievedContext] = {}
        with open_index(self._folder, server=self._server) as index:
            for i, (question, context) in enumerate(requests):
                found = None if context else self._look_up(index, question)
                if isinstance(found, RowReply):
                    replies[i] = found
                elif found:
                    passages[i] = found
        left = [i for i in range(len(requests)) if i not in replies]
        prompts = [(requests[i][0], passages[i].context if i in passages else requests[i][1]) for i in left]
        for i, reply in zip(left, self._engine.answer(prompts) if prompts else [], strict=True):
            replies[i] = replace(reply, from_documents=i in passages, sources=_list_sources(passages.get(i)))
        return [replies[i] for i in range(len(requests))]

    def _look_up(self, index: Index, question: str) -> RetrievedContext | RowReply:
        """Return the passages for a question, or the reply that needs no model."""
        quotes, version = self._grounding.answer == "quote", self._engine.version
        room = self._grounding.room if quotes else compute_room(self._window, self._engine.max_new_tokens, question)
        found = retrieve_context(index, question, self._grounding, room if room >= MIN_ROOM else TIGHT_ROOM)
        if ready := found.quote if found.hits else REFUSAL:
            return RowReply(ready, version=version, from_documents=True, sources=_list_sources(found))
        return found


def _list_sources(found: RetrievedContext | None) -> tuple[str, ...]:
    """Return where the passages stand: location and position."""
    hits = found.hits if found else ()
    return tuple(f"{hit.passage.location}, {hit.passage.position}" for hit in hits)
