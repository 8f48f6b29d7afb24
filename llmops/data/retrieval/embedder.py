"""Vectors of texts by a small sentence model. The dot product of two vectors is the likeness of their texts.

with closing(Embedder()) as embedder:
    vectors = embedder.embed(["How do I return an item?", "Refunds take a week."])
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from llmops.data.retrieval.minilm import DIMENSIONS, Model, Vectors, open_model, read_tokenizer
from llmops.frame import machine

if TYPE_CHECKING:
    from tokenizers import Tokenizer

BATCH = 32  #: texts that are computed together; 256 tokens each take about a second on two cores


class Embedder:
    """The model, which is loaded for the first texts and takes 200 MB. Any thread may use it.

    It computes in a thread of its own, so that the asking thread can do something else and be interrupted.

    Args:
        threads: that compute; 0: one for each core.
    """

    def __init__(self, threads: int = 0) -> None:
        self._threads = threads or machine.cores()
        self._pool, self._closed = ThreadPoolExecutor(1, "embedder"), False

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Return the vectors of texts, in their order. Only the first 256 tokens of a text count.

        Raises:
            ArtifactError: if the model's package is not installed.
        """
        return self.start(texts).result()

    def start(self, texts: Sequence[str]) -> Future[Vectors]:
        """Begin to compute the vectors of texts; the result is that of `embed`."""
        return self._pool.submit(self._embed, list(texts))

    def count_tokens(self, texts: Sequence[str]) -> int:
        """Return how many tokens of texts count, the marks around each included."""
        return sum(len(encoding.ids) for encoding in self._tokenizer.encode_batch(list(texts)))

    def close(self) -> None:
        """Stop computing, and release the model."""
        self._closed = True
        self._pool.shutdown(cancel_futures=True)
        self.__dict__.pop("_model", None)

    def _embed(self, texts: list[str]) -> Vectors:
        found = np.empty((len(texts), DIMENSIONS), np.float32)
        rows = [encoding.ids for encoding in self._tokenizer.encode_batch(texts)]
        order = sorted(range(len(rows)), key=lambda number: -len(rows[number]))  # texts of one length together
        for start in range(0, len(order), BATCH):
            if self._closed:  # whoever waited was interrupted
                raise CancelledError
            batch = order[start : start + BATCH]
            found[batch] = self._model([rows[number] for number in batch])
        return found

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        return read_tokenizer()

    @cached_property
    def _model(self) -> Model:
        return open_model(self._threads)
