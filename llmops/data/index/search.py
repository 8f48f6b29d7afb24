"""An index that is searched in the artifact's own files.

    with open_index(folder) as index:
        for hit in index.search("How long does delivery take?", 5):
            print(hit.passage.title, hit.passage.text)

It needs SQLite and numpy: neither Arrow nor Polars.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from llmops.artifacts import read_record
from llmops.data.index.files import COLUMNS, VECTORS, open_database
from llmops.data.index.passages import size_of
from llmops.data.index.ranking import CANDIDATES, Found, Index, rarest
from llmops.embedding.embedder import Vectors
from llmops.embedding.weights import DIMENSIONS
from llmops.errors import ArtifactError
from llmops.records import Passage


class EmbeddedIndex(Index):
    """An index whose files are open, see `open_index`."""

    def __init__(self, database: sqlite3.Connection, passages: int, vectors: Vectors | None) -> None:
        super().__init__(passages, vectors is not None)
        self._database, self._vectors = database, vectors

    def count(self) -> dict[str, Any]:
        """See `Index`."""
        numbers = "SELECT count(DISTINCT document), count(*) FROM passages"
        documents, passages = self._database.execute(numbers).fetchone()
        words = sum(size_of(text) for (text,) in self._database.execute("SELECT text FROM passages"))
        sources = self._database.execute("SELECT source, count(*) FROM passages GROUP BY source ORDER BY source")
        return {"documents": documents, "passages": passages, "words": words, "sources": dict(sources)}

    def close(self) -> None:
        """See `Index`."""
        self._database.close()
        super().close()

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, ValueError) as error:
            raise ArtifactError(f"The index cannot be searched ({error}): run the pipeline anew.") from error

    def _by_words(self, words: Sequence[str], most: tuple[int, int]) -> Iterable[Found]:
        if not words:
            return
        asked = " OR ".join(map(_quoted, rarest(words, *most, self._common, self._occurs)))
        best = "SELECT rowid, -rank FROM words WHERE words MATCH ? ORDER BY rank"
        for number, score in self._database.execute(best, (asked,)):
            yield number, self.passage(number), score

    def _occurs(self, word: str) -> bool:
        found = self._database.execute("SELECT 1 FROM words WHERE words MATCH ? LIMIT 1", (_quoted(word),))
        return found.fetchone() is not None

    def _near(self, vector: Vectors) -> _Near:
        """Half of the passages are compared in another thread.

        By `@`, numpy's own threads would go on spinning for a while, on the cores that the embedder's process needs.
        """
        assert self._vectors is not None
        half = len(self._vectors) // 2
        others = self._meanwhile.submit(np.einsum, "ij,j->i", self._vectors[half:], vector)
        return _Near(self, np.concatenate([np.einsum("ij,j->i", self._vectors[:half], vector), others.result()]))

    def passage(self, number: int) -> Passage:
        """A passage by its number."""
        query = f"SELECT {', '.join(COLUMNS)} FROM passages WHERE number = ?"
        row = self._database.execute(query, (number,)).fetchone()
        return Passage(**dict(zip(COLUMNS, row, strict=True)))

    @cached_property
    def _common(self) -> dict[str, int]:
        return dict(self._database.execute("SELECT word, passages FROM common"))


class _Near:
    """See `Near`: all passages have been compared."""

    def __init__(self, index: EmbeddedIndex, likeness: Vectors) -> None:
        self._index, self._likeness = index, likeness

    def best(self, most: int) -> Iterator[Found]:
        """See `Near`."""
        likeness, most, below = self._likeness, max(CANDIDATES, most), np.inf
        while below > -np.inf:  # the best, and where these are not enough, ever more of the others
            cut = -np.partition(-likeness, most)[most] if most < len(likeness) else -np.inf
            rows = np.flatnonzero((likeness >= cut) & (likeness < below))
            for number in map(int, rows[np.argsort(-likeness[rows], kind="stable")]):
                yield number, self._index.passage(number), float(likeness[number])
            most, below = 4 * most, cut

    def of(self, numbers: Sequence[int]) -> list[float]:
        """See `Near`."""
        return [float(self._likeness[number]) for number in numbers]


def _quoted(word: str) -> str:
    """A word as FTS5 takes it, whatever is in it."""
    return '"' + word.replace('"', '""') + '"'


def open_index(folder: Path) -> EmbeddedIndex:
    """Open the index of a finished artifact.

    Raises:
        ArtifactError: if it is not finished, cannot be read, or has lost its vectors.
    """
    model = read_record(folder).metrics.get("model")
    try:
        database = open_database(folder)
        number = int(database.execute("SELECT count(*) FROM passages").fetchone()[0])
        vectors = np.load(folder / VECTORS, mmap_mode="r") if (folder / VECTORS).exists() else None
    except (sqlite3.Error, OSError, ValueError) as error:
        raise ArtifactError(f"{folder} cannot be read ({error}); delete it and run `llmops run index`.") from error
    if model and vectors is None:
        raise ArtifactError(f"{folder} has lost its {VECTORS}; delete it and run `llmops run index`.")
    if vectors is not None and vectors.shape != (number, DIMENSIONS):
        raise ArtifactError(
            f"{folder} has {number} passages, and vectors of the shape {vectors.shape}; finish the erasure that was "
            "broken off, or delete it and run `llmops run index`."
        )
    return EmbeddedIndex(database, number, vectors)
