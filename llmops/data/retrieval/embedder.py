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

from llmops.data.retrieval.minilm import DIMENSIONS, EmbedTokens, Vectors, open_model, read_tokenizer
from llmops.frame import machine

if TYPE_CHECKING:
    from tokenizers import Tokenizer

BATCH_SIZE = 32  #: texts per computation; with 256 tokens each it takes about a second on two cores


class Embedder:
    """The sentence model. It is loaded for the first texts and takes 200 MB. Any thread may use it.

    It computes in its own thread, so that the calling thread can do something else and can be interrupted.

    Args:
        threads: number of computing threads; 0: one per core.
    """

    def __init__(self, threads: int = 0) -> None:
        self._threads = threads or machine.count_cores()
        self._pool, self._closed = ThreadPoolExecutor(1, "embedder"), False

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Return the vectors of texts, in their order. Only the first 256 tokens of a text count.

        Raises:
            ArtifactError: if the model's package is not installed.
        """
        return self.submit(texts).result()

    def submit(self, texts: Sequence[str]) -> Future[Vectors]:
        """Start to compute the vectors of texts, and return the future result of `embed`."""
        return self._pool.submit(self._embed, list(texts))

    def count_tokens(self, texts: Sequence[str]) -> int:
        """Return the number of tokens that the model reads, with the special tokens around each text."""
        return sum(len(encoding.ids) for encoding in self._tokenizer.encode_batch(list(texts)))

    def close(self) -> None:
        """Stop computing, and release the model."""
        self._closed = True
        self._pool.shutdown(cancel_futures=True)
        self.__dict__.pop("_model", None)

    def _embed(self, texts: list[str]) -> Vectors:
        vectors = np.empty((len(texts), DIMENSIONS), np.float32)
        rows = [encoding.ids for encoding in self._tokenizer.encode_batch(texts)]
        order = sorted(range(len(rows)), key=lambda number: -len(rows[number]))  # texts of one length together
        for start in range(0, len(order), BATCH_SIZE):
            if self._closed:  # whoever waited was interrupted
                raise CancelledError
            batch = order[start : start + BATCH_SIZE]
            vectors[batch] = self._model([rows[number] for number in batch])
        return vectors

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        return read_tokenizer()

    @cached_property
    def _model(self) -> EmbedTokens:
        return open_model(self._threads)
