"""The two files of an index: a SQLite database of passages with their words (FTS5), and a flat file of their vectors.

A passage has the same number in both, from 0. The database keeps the words without a second copy of the text.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import fields
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmops.data.retrieval.minilm import DIMENSIONS, Vectors
from llmops.data.retrieval.terms import FTS_TOKENIZER, extract_terms
from llmops.frame.errors import ArtifactError
from llmops.frame.records import Passage

DATABASE_FILE = "index.db"
VECTORS_FILE = "vectors.npy"  #: missing if the index was made without a model
READ_BATCH = 4_096  #: passages per step of reading
#: Only the rarest words of a question are searched: together they are in at most this number of passages; at least one
#: word is searched. Ranking takes 1 ms per thousand passages.
MAX_RANKED = 2_000
#: Passages whose vectors are compared exactly: those whose signs agree most with the signs of the question's
#: vector. The nearest 10 of 13,000 questions to a bank are all among them, and .9998 of the nearest 100.
MAX_COMPARED = 2_000

FindLikeness = Callable[[Any], float | None]  #: key of a passage → cosine of its vector; None if it was not compared
VectorMatches = tuple[Sequence[Any], FindLikeness]  #: keys of the nearest passages, the best first

_COLUMNS = [field.name for field in fields(Passage)]
_quote_word = '"{}"'.format  #: a word as FTS5 looks for it
_SCHEMA = f"""
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
CREATE TABLE passages (number INTEGER PRIMARY KEY, {", ".join(f"{name} TEXT NOT NULL" for name in _COLUMNS)});
CREATE VIRTUAL TABLE words USING fts5(
    headings, text, content = '', tokenize = "{FTS_TOKENIZER}"
);
"""


class FileStore:
    """The files of an index. Keys are numbers of passages. `ElasticsearchStore` has the same methods."""

    def __init__(self, database: sqlite3.Connection, vectors: Vectors | None) -> None:
        self._database, self._vectors = database, vectors
        self.has_vectors = vectors is not None
        if vectors is not None:
            self._center, self._signs = _compute_signs(vectors)

    def start_search(self) -> None:
        """Do nothing: a search in files has no time limit."""

    def search_words(self, words: Sequence[str], limit: int) -> list[int]:
        """Return the keys of the passages with the rarest of these words, the best by BM25 first."""
        if not (rarest := select_rarest(self._count_passages_with(words, MAX_RANKED))):
            return []
        query, quoted = (
            "SELECT rowid FROM words WHERE words MATCH ? ORDER BY rank, rowid LIMIT ?",
            map(_quote_word, rarest),
        )
        return [number for (number,) in self._database.execute(query, (" OR ".join(quoted), limit))]

    def count_passages_with(self, words: Sequence[str]) -> tuple[dict[str, int], int]:
        """Return the number of passages with each word, and the number of all passages."""
        passages = count_passages(self._database)
        return self._count_passages_with(words, passages), passages

    def search_vector(self, vector: Vectors, limit: int) -> VectorMatches:
        """Return the passages nearest to a vector, with their exact likeness.

        Reading all vectors for each question would take longer than all else. So their signs, 48 bytes a passage,
        select the passages that are compared: Yamada et al., "Efficient Passage Retrieval with Hashing", ACL 2021.
        """
        assert self._vectors is not None
        vectors = self._vectors
        compared = self._select_compared(vector, max(MAX_COMPARED, 4 * limit))
        likeness = np.vecdot(vectors[compared], vector)  # in this thread: BLAS would keep both cores busy
        nearest = compared[np.lexsort((compared, -likeness))][:limit]
        return nearest.tolist(), lambda number: float(vectors[number] @ vector)

    def read(self, keys: Sequence[int]) -> Iterator[tuple[int, Passage]]:
        """Yield passages with their keys. Missing ones are left out."""
        return read_passages(self._database, keys)

    def close(self) -> None:
        """Close the files."""
        self._database.close()

    def _select_compared(self, vector: Vectors, number: int) -> NDArray[np.intp]:
        """Return the numbers of the passages whose signs differ least, `number` of them and all that equal the last."""
        differing = np.zeros(self._signs.shape[1], np.uint16)
        for signs, asked in zip(self._signs, _pack_signs(vector > self._center), strict=True):
            differing += np.bitwise_count(signs ^ asked)
        most = np.searchsorted(np.cumsum(np.bincount(differing)), number)
        return np.flatnonzero(differing <= most)

    def _count_passages_with(self, words: Sequence[str], limit: int) -> dict[str, int]:
        query = "SELECT count(*) FROM (SELECT 1 FROM words WHERE words MATCH ? LIMIT ?)"
        return {word: self._database.execute(query, (_quote_word(word), limit)).fetchone()[0] for word in words}


def _compute_signs(vectors: Vectors) -> tuple[Vectors, NDArray[np.uint64]]:
    """Return the mean of some vectors, and of all vectors the signs of their differences from it.

    The signs have the shape (words of 64 bits, passages).
    """
    center = np.zeros(DIMENSIONS, np.float32)
    if len(vectors):
        center = vectors[:: len(vectors) // READ_BATCH + 1].mean(axis=0)
    signs = np.empty((DIMENSIONS // 64, len(vectors)), np.uint64)
    for start in range(0, len(vectors), READ_BATCH):
        signs[:, start : start + READ_BATCH] = _pack_signs(vectors[start : start + READ_BATCH] > center).T
    return center, signs


def _pack_signs(positive: NDArray[np.bool_]) -> NDArray[np.uint64]:
    return np.packbits(positive, axis=-1).view(np.uint64)


def select_rarest(counts: Mapping[str, int]) -> list[str]:
    """Return the rarest words, up to `MAX_RANKED` passages together. `counts`: word → number of passages with it."""
    selected, ranked = list[str](), 0
    for word in sorted(filter(counts.get, counts), key=counts.__getitem__):
        ranked += counts[word]
        if selected and ranked > MAX_RANKED:
            break
        selected.append(word)
    return selected


def write_passages(folder: Path, passages: Iterable[Passage]) -> int:
    """Write the database of an index into an empty folder, and return the number of passages."""
    number = -1
    with closing(sqlite3.connect(folder / DATABASE_FILE, isolation_level=None)) as database:
        database.executescript(_SCHEMA)
        database.execute("BEGIN")
        for number, passage in enumerate(passages):
            row = [getattr(passage, name) for name in _COLUMNS]
            database.execute(f"INSERT INTO passages VALUES (?{', ?' * len(row)})", (number, *row))
            words = [" ".join(extract_terms(text)) for text in (passage.headings, passage.text)]
            database.execute("INSERT INTO words (rowid, headings, text) VALUES (?, ?, ?)", (number, *words))
        database.execute("INSERT INTO words (words) VALUES ('optimize')")
        database.execute("CREATE INDEX by_document ON passages (document)")
        database.execute("COMMIT")
    return number + 1


def create_vectors(folder: Path, number: int) -> Vectors:
    """Create the file of `number` vectors; return it as an array in memory. Writing to the array writes the file."""
    if number:
        mapped: Vectors = np.lib.format.open_memmap(folder / VECTORS_FILE, "w+", np.float32, (number, DIMENSIONS))
        return mapped
    np.save(folder / VECTORS_FILE, empty := np.empty((0, DIMENSIONS), np.float32))  # an empty file cannot be mapped
    return empty


def open_database(folder: Path) -> sqlite3.Connection:
    """Open the database of an index for reading. Several threads may use it, one at a time."""
    uri = f"{(folder / DATABASE_FILE).absolute().as_uri()}?mode=ro&immutable=1"
    return sqlite3.connect(uri, uri=True, check_same_thread=False)


def read_passages(database: sqlite3.Connection, numbers: Iterable[int]) -> Iterator[tuple[int, Passage]]:
    """Yield passages with their numbers. Missing ones are left out."""
    query = f"SELECT {', '.join(_COLUMNS)} FROM passages WHERE number = ?"
    for number in numbers:
        for row in database.execute(query, (number,)):
            yield number, Passage(**dict(zip(_COLUMNS, row, strict=True)))


def read_document_passages(database: sqlite3.Connection, documents: Iterable[str]) -> Iterator[Passage]:
    """Yield the passages of documents with these ids, in the order of each document."""
    query = f"SELECT {', '.join(_COLUMNS)} FROM passages WHERE document = ? ORDER BY number"
    for document in documents:
        for row in database.execute(query, (document,)):
            yield Passage(**dict(zip(_COLUMNS, row, strict=True)))


def read_texts(database: sqlite3.Connection) -> Iterator[list[tuple[str, str]]]:
    """Yield headings and text of all passages, in the order of their numbers, in batches."""
    rows = database.execute("SELECT headings, text FROM passages ORDER BY number")
    while batch := list(islice(rows, READ_BATCH)):
        yield batch


def count_passages(database: sqlite3.Connection) -> int:
    """Return the number of passages of an index."""
    return int(database.execute("SELECT count(*) FROM passages").fetchone()[0])


def is_extension(index: Path, served: Path | None) -> bool:
    """Return whether an index is not the served one and contains all passages of the served one.

    Return False for a damaged index, because it should be replaced.

    Args:
        index: a finished artifact.
        served: the folder of the served index; None: there is none.
    """
    if served is None or served.name == index.name:
        return False
    try:
        return _read_passage_ids(served) <= _read_passage_ids(index)
    except sqlite3.Error:
        return False


def _read_passage_ids(folder: Path) -> set[str]:
    with closing(open_database(folder)) as database:
        return {passage for (passage,) in database.execute("SELECT id FROM passages")}


def open_vectors(folder: Path, count: int) -> Vectors:
    """Map the vectors of an index into memory.

    Args:
        folder: the folder of the index.
        count: the number of its passages.

    Raises:
        ArtifactError: if the file cannot be read, or has another number of vectors.
    """
    try:
        vectors: Vectors = np.load(folder / VECTORS_FILE, mmap_mode="r" if count else None)
    except (OSError, ValueError, EOFError) as error:
        raise ArtifactError(
            f"{folder / VECTORS_FILE} cannot be read ({error}); delete {folder}, make it again."
        ) from None
    if vectors.shape != (count, DIMENSIONS):
        raise ArtifactError(
            f"{folder} has {count} passages and vectors of the shape {vectors.shape}; delete it and make it again."
        )
    return vectors
