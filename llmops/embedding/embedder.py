"""Vectors of texts, by a small sentence model: what `/v1/embeddings` answers with.

    with closing(Embedder()) as embedder:
        vectors = embedder.embed(["How do I return an item?", "Refunds take a week."])

Their dot product is the texts' likeness, from -1 to 1.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from llmops import machine
from llmops.child.child import Child
from llmops.embedding.weights import DIMENSIONS, NAME, WINDOW, read_tokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer

BATCH = 32  #: texts that are computed together, of 256 tokens in about a second on two cores

Vectors = NDArray[np.float32]  #: of shape (texts, dimensions), each one long


class Embedder:
    """The model, in a process of its own, which is started for the first texts and has 300 MB.

    Args:
        threads: that compute; 0: as many as `machine.threads` allows.
    """

    def __init__(self, threads: int = 0) -> None:
        self._child = Child("llmops.embedding.worker", [str(threads or machine.threads())])

    def token_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """The token ids of each text, whatever its length.

        Raises:
            ArtifactError: if the model's package is not installed, or its tokenizer is damaged.
        """
        return [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]

    def embed(self, texts: Sequence[str]) -> Vectors:
        """The vectors of texts, in their order.

        Raises:
            ValueError: if one has more than `WINDOW` tokens.
            ChildFailed: if the process ends or hangs.
            ArtifactError: if the model's package is not installed.
        """
        rows = self.token_ids(texts)
        for number, row in enumerate(rows):
            if len(row) > WINDOW:
                raise ValueError(f"text {number} has {len(row)} tokens; {NAME} takes {WINDOW}")
        return self._embed(rows)

    def embed_beginnings(self, texts: Sequence[str]) -> Vectors:
        """The vectors of texts, in their order; of one that has more than `WINDOW` tokens, of as many.

        Raises:
            ChildFailed, ArtifactError: as `embed`.
        """
        return self._embed([r if len(r) <= WINDOW else [*r[: WINDOW - 1], r[-1]] for r in self.token_ids(texts)])

    def _embed(self, rows: Sequence[Sequence[int]]) -> Vectors:
        found = np.empty((len(rows), DIMENSIONS), np.float32)
        for batch in batches(rows):
            found[batch] = self.embed_batch([rows[number] for number in batch])
        return found

    def embed_batch(self, rows: Sequence[Sequence[int]]) -> Vectors:
        """The vectors of a few texts by their token ids; errors are those of `embed`."""
        said = base64.b64decode(self._child.ask(rows))
        return np.frombuffer(said, "<f4").astype(np.float32, copy=False).reshape(len(rows), DIMENSIONS)

    def close(self) -> None:
        """End the process."""
        self._child.close()

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        return read_tokenizer()


def batches(rows: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Which rows are computed together, by their numbers: the longest first, and such as are of one length."""
    order = sorted(range(len(rows)), key=lambda number: -len(rows[number]))
    for start in range(0, len(order), BATCH):
        yield order[start : start + BATCH]
