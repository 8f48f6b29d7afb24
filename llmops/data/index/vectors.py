"""The vectors of an index's passages. Known texts are copied from an earlier index instead of computed again.

The vector of a passage is computed from its headings and text. If a heading is a question, half of the question's
vector is added, because another wording of a question is nearer to the question than to its answer. (In 242 rewordings
of a FAQ the answer is among the best five for .92 of them, without this step for .86.) Other headings are not added,
because all passages of a section would become alike.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np

from llmops.data.retrieval.embedder import Embedder
from llmops.data.retrieval.file_store import count_passages, create_vectors, open_database, open_vectors, read_texts
from llmops.data.retrieval.minilm import Vectors
from llmops.data.text.headings import PATH_SEPARATOR, is_question
from llmops.frame.errors import ArtifactError
from llmops.frame.records import make_content_id

QUESTION_WEIGHT = 0.5  #: weight of the question's vector that is added


def write_vectors(folder: Path, earlier: Sequence[Path]) -> int:
    """Write the vectors of an index whose passages are already written, and return the number of computed vectors.

    Args:
        folder: the folder of the index.
        earlier: indexes with the same model, code and libraries; the first readable one is used.

    Raises:
        ArtifactError: if the model's package is not installed.
    """
    computed = start = 0
    known_rows, known_vectors = _read_known_vectors(earlier)
    with closing(open_database(folder)) as database, closing(Embedder()) as embedder:
        vectors = create_vectors(folder, count_passages(database))
        for batch in read_texts(database):
            rows = [known_rows.get(make_content_id(*passage)) for passage in batch]
            for number, row in enumerate(rows, start):
                if row is not None:
                    vectors[number] = known_vectors[row]
            if new := [number for number, row in enumerate(rows) if row is None]:
                vectors[[start + number for number in new]] = _embed_passages(
                    embedder, [batch[number] for number in new]
                )
            computed, start = computed + len(new), start + len(batch)
    if isinstance(vectors, np.memmap):
        vectors.flush()
    return computed


def _embed_passages(embedder: Embedder, passages: Sequence[tuple[str, str]]) -> Vectors:
    vectors = embedder.embed(["\n".join(filter(None, passage)) for passage in passages])
    question_parts = ["\n".join(filter(is_question, headings.split(PATH_SEPARATOR))) for headings, _ in passages]
    if questions := list(dict.fromkeys(filter(None, question_parts))):
        row_of = {question: row for row, question in enumerate(questions)}
        rows = [row for row, question in enumerate(question_parts) if question]
        vectors[rows] += QUESTION_WEIGHT * embedder.embed(questions)[[row_of[question_parts[row]] for row in rows]]
        vectors[rows] /= np.linalg.norm(vectors[rows], axis=1, keepdims=True)
    return vectors


def _read_known_vectors(earlier: Sequence[Path]) -> tuple[dict[str, int], Vectors]:
    """Return the vectors of the first readable, non-empty index, and hash of headings and text → row of the vectors."""
    for folder in earlier:
        try:
            with closing(open_database(folder)) as database:
                hashes = [make_content_id(*passage) for batch in read_texts(database) for passage in batch]
            vectors = open_vectors(folder, len(hashes))
        except (sqlite3.Error, ArtifactError):
            continue  # damaged, or made without a model: its vectors are computed again
        if hashes:
            return {key: row for row, key in enumerate(hashes)}, vectors
    return {}, np.empty((0, 0), np.float32)
