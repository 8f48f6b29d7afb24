"""The sentence model that `/v1/embeddings` answers with: one for all versions, in a process of its own.

Keys take turns, each by a batch of its texts, so that neither many requests nor one of thousands keeps others waiting.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from importlib.util import find_spec

import numpy as np

from llmops.embedding.embedder import Embedder, Vectors, batches
from llmops.embedding.weights import DIMENSIONS, NAME, WINDOW, find_files, project, read_tokenizer, read_weights
from llmops.errors import ArtifactError, ChildFailed
from serving.errors import EngineDied, NotReady, PromptRefused, PromptTooLong
from serving.models.fair_lock import FairLock
from serving.places import Places

log = logging.getLogger(__name__)

MARKS = 2  #: tokens that each text has besides its own


class Embeddings:
    """Makes vectors of texts; all but `close` and `whole` is called in one event loop.

    Args:
        threads: that compute; 0: one per core that this process may use.
        most: requests that may be under way.
    """

    def __init__(self, threads: int, most: int) -> None:
        self._embedder, self._lock = Embedder(threads), FairLock()
        self._thread = ThreadPoolExecutor(1, "embeddings")  # the child answers one at a time
        self.places = Places(most)  #: each is had until the answer has left
        #: whether it is installed; the image of vLLM has no OpenVINO
        self.there = find_files() is not None and find_spec("openvino") is not None

    @cached_property
    def whole(self) -> bool:
        """Whether it is installed and its files are those that were published, which are read the first time."""
        if self.there:
            try:
                read_tokenizer()
                read_weights()
                return True
            except ArtifactError as error:
                log.error("There are no embeddings: %s", error)
        return False

    async def token_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """The token ids of texts.

        Raises:
            NotReady: if the model's files are damaged.
            PromptTooLong: if one has too many.
            PromptRefused: if one has none, as `\\x00`.
        """
        if not await asyncio.to_thread(lambda: self.whole):
            raise NotReady(f"The files of {NAME} are damaged: install {project()} again and restart the server.")
        rows = await asyncio.to_thread(self._embedder.token_ids, texts)
        for number, row in enumerate(rows):
            if len(row) > WINDOW:
                raise PromptTooLong(f"input.{number} has {len(row)} tokens; {NAME} takes {WINDOW}.")
            if len(row) <= MARKS:
                raise PromptRefused(f"input.{number} is empty.")
        return rows

    async def vectors(self, rows: Sequence[Sequence[int]], caller: str) -> Vectors:
        """The vectors of texts by their token ids, in their order.

        Args:
            rows: see `token_ids`.
            caller: prefix of the key that asks.

        Raises:
            EngineDied: if the process ends or hangs.
        """
        found = np.empty((len(rows), DIMENSIONS), np.float32)
        ask, loop = self._embedder.embed_batch, asyncio.get_running_loop()
        for batch in batches(rows):
            async with self._lock.turn(caller):
                try:
                    found[batch] = await loop.run_in_executor(self._thread, ask, [rows[number] for number in batch])
                except ChildFailed as error:
                    raise EngineDied from error
        return found

    def close(self) -> None:
        """End the process; blocks."""
        self._embedder.close()  # first: the thread may wait for an answer that does not come
        self._thread.shutdown(cancel_futures=True)
