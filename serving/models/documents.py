"""The served index of documents: reopened when it is replaced; its searches and its model run in their own thread."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np

from llmops.config import Grounding, SearchServer, Serving
from llmops.data.retrieval.grounding import RetrievedContext, retrieve_context
from llmops.data.retrieval.minilm import Vectors
from llmops.data.retrieval.search import Index, open_index
from llmops.frame.clock import SYSTEM_CLOCK, Clock
from llmops.frame.errors import ArtifactError, TransientError
from llmops.release.registry.indexes import find_served_index
from serving.errors import DocumentsDown, NoEmbeddings, QueueFull, TimedOut

log = logging.getLogger(__name__)

FAILURE_PAUSE_S = 5.0  #: after Elasticsearch has not answered, nobody waits for it so long
EMBED_BATCH = (
    8  #: texts that are embedded before the next question is looked up; they take a quarter of a second at most
)


class Documents:
    """The served index, which answers one question after another outside of the event loop.

    Args:
        model: the model's folder in the registry.
        config: the least likeness of a passage to a question, and the number of passages.
        serving: how many questions may wait, for how long, and the threads that compute a question's vector.
        server: the Elasticsearch that searches the index; None: its files are searched.
        clock: the clock of `FAILURE_PAUSE_S`.
    """

    def __init__(
        self,
        model: Path,
        config: Grounding,
        serving: Serving,
        server: SearchServer | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._model, self._config, self._serving, self._server, self._clock = model, config, serving, server, clock
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="documents")
        self._waiting = 0
        self._failure = ("", 0.0)  #: of Elasticsearch, and until when it counts
        self._logged_error = ""  #: the last error of a search; the same error is logged once
        self._opened: tuple[Path, int] | None = None  #: folder and modification time, because a folder may be replaced
        self._index: Index | None = None

    def warm_up(self) -> None:
        """Open the index and load its embedding model in the background, so that the first caller need not wait."""
        self._thread.submit(self._warm_up)

    async def look_up(self, question: str, room: int, answer: str) -> RetrievedContext | None:
        """Return the passages for a question; None if no index is served.

        Args:
            question: the caller's question.
            room: bytes that passages may take in the prompt.
            answer: the answer mode of the version that answers, see `Grounding.with_answer`.

        Raises:
            DocumentsDown: if the index cannot be searched.
            QueueFull: if `serving.max_queue` questions wait already.
            TimedOut: if the search takes more than `serving.timeout_s`.
        """
        async with self._admit("The documents were not searched"):
            self._check_failure()
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._look_up, question, room, answer)

    async def embed(self, texts: Sequence[str]) -> tuple[Vectors, int]:
        """Return the vectors of texts by the model of the served index, and how many of their tokens they are made of.

        Raises:
            NoEmbeddings: if `grounding.enabled` is off, or no index with vectors is served.
            DocumentsDown, QueueFull, TimedOut: see `look_up`.
        """
        made: list[tuple[Vectors, int] | None] = []
        async with self._admit("The texts were not embedded"):
            for start in range(0, len(texts) if self._config.enabled else 0, EMBED_BATCH):
                piece = texts[start : start + EMBED_BATCH]
                made.append(await asyncio.get_running_loop().run_in_executor(self._thread, self._embed, piece))
        if not (done := [one for one in made if one]) or len(done) < len(made):
            raise NoEmbeddings
        return np.concatenate([vectors for vectors, _ in done]), sum(tokens for _, tokens in done)

    def close(self) -> None:
        """End the thread, and release the model of the vectors."""
        self._thread.submit(self._open, None)
        self._thread.shutdown()

    @asynccontextmanager
    async def _admit(self, late: str) -> AsyncIterator[None]:
        if self._waiting >= self._serving.max_queue:
            raise QueueFull(self._waiting, 1)
        self._waiting += 1
        try:
            async with asyncio.timeout(self._serving.timeout_s):
                yield
        except TimeoutError:
            raise TimedOut(f"{late} after {self._serving.timeout_s:g} s.") from None
        except Exception as error:
            if self._logged_error != repr(error):
                log.exception("The index of documents cannot be searched")
            self._logged_error = repr(error)
            raise DocumentsDown from error
        finally:
            self._waiting -= 1
        self._logged_error = ""

    def _embed(self, texts: Sequence[str]) -> tuple[Vectors, int] | None:
        index = self._follow_index()
        if not (index and index.has_vectors):
            return None
        return index.embedder.embed(texts), index.embedder.count_tokens(texts)

    def _look_up(self, question: str, room: int, answer: str) -> RetrievedContext | None:
        self._check_failure()  # of the questions before, which have waited, too
        index = self._follow_index()
        try:
            return retrieve_context(index, question, self._config.with_answer(answer), room) if index else None
        except TransientError as error:
            self._failure = str(error), self._clock.monotonic() + FAILURE_PAUSE_S
            raise

    def _check_failure(self) -> None:
        error, until = self._failure
        if self._clock.monotonic() < until:
            raise TransientError(error)

    def _follow_index(self) -> Index | None:
        folder = find_served_index(self._model)
        now = (folder, folder.stat().st_mtime_ns) if folder else None
        if now != self._opened:
            try:
                self._open(folder)
                self._opened = now
            except ArtifactError:
                if find_served_index(self._model) == folder:
                    raise
                return self._follow_index()  # it was replaced while it was opened
        return self._index

    def _open(self, folder: Path | None) -> None:
        if self._index:
            self._index.close()
        self._index = self._opened = None
        if folder:
            self._index = open_index(folder, self._serving.threads, self._server)

    def _warm_up(self) -> None:
        try:
            self._look_up("Hello", 0, "model")
        except Exception:  # a later question gets the error
            log.warning("The index of documents cannot be searched yet", exc_info=True)
