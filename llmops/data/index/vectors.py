"""The vectors of an index's passages. Texts that an earlier index has are not computed again.

The vector of a passage is that of its headings and text. If a heading asks something, half the vector of the question
is added: another wording of a question is nearer to the question than to its answer (242 rewordings of a FAQ: with it
the answer is among the best five for .92 of them, without it for .86). Other headings are not added, because all
passages of a section would become alike.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np

from llmops.data.retrieval.embedder import Embedder
from llmops.data.retrieval.files import count_passages, new_vectors, open_database, open_vectors, read_texts
from llmops.data.retrieval.minilm import Vectors
from llmops.data.text.headings import BETWEEN, asks
from llmops.frame.errors import ArtifactError
from llmops.frame.records import content_id

ASKED = 0.5  #: share of a question's vector that is added


def write_vectors(folder: Path, earlier: Sequence[Path]) -> int:
    """Write the vectors of an index whose passages are written, and return how many were computed.

    Args:
        folder: of the index.
        earlier: indexes whose vectors were made in the same way; the first that can be read is used.

    Raises:
        ArtifactError: if the model's package is not installed.
    """
    computed = start = 0
    known, theirs = _known(earlier)
    with closing(open_database(folder)) as database, closing(Embedder()) as embedder:
        vectors = new_vectors(folder, count_passages(database))
        for some in read_texts(database):
            rows = [known.get(content_id(*one)) for one in some]
            for at, row in enumerate(rows, start):
                if row is not None:
                    vectors[at] = theirs[row]
            if new := [at for at, row in enumerate(rows) if row is None]:
                vectors[[start + at for at in new]] = _embedded(embedder, [some[at] for at in new])
            computed, start = computed + len(new), start + len(some)
    if isinstance(vectors, np.memmap):
        vectors.flush()
    return computed


def _embedded(embedder: Embedder, passages: Sequence[tuple[str, str]]) -> Vectors:
    vectors = embedder.embed(["\n".join(filter(None, one)) for one in passages])
    asked = ["\n".join(filter(asks, headings.split(BETWEEN))) for headings, _ in passages]
    if questions := list(dict.fromkeys(filter(None, asked))):
        row_of = {question: row for row, question in enumerate(questions)}
        rows = [row for row, question in enumerate(asked) if question]
        vectors[rows] += ASKED * embedder.embed(questions)[[row_of[asked[row]] for row in rows]]
        vectors[rows] /= np.linalg.norm(vectors[rows], axis=1, keepdims=True)
    return vectors


def _known(earlier: Sequence[Path]) -> tuple[dict[str, int], Vectors]:
    """Return hashes of headings and text → row of the vectors of the first index that can be read and has any."""
    for folder in earlier:
        try:
            with closing(open_database(folder)) as database:
                hashes = [content_id(*one) for some in read_texts(database) for one in some]
            vectors = open_vectors(folder, len(hashes))
        except (sqlite3.Error, ArtifactError):
            continue  # damaged, or made without a model: its vectors are computed again
        if hashes:
            return {key: row for row, key in enumerate(hashes)}, vectors
    return {}, np.empty((0, 0), np.float32)
