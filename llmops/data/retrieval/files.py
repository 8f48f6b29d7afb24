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

from llmops.data.retrieval.minilm import DIMENSIONS, Vectors
from llmops.data.retrieval.terms import TOKENIZER, terms_of
from llmops.frame.errors import ArtifactError
from llmops.frame.records import Passage

DATABASE = "index.db"
VECTORS = "vectors.npy"  #: missing if the index was made without a model
TOGETHER = 4_096  #: passages that are read at once
#: The rarest words of a question are looked for: those that so many passages have together, and one in any case.
#: Ranking takes 1 ms for a thousand passages.
MOST_RANKED = 2_000

Likeness = Callable[[Any], float | None]  #: key of a passage → cosine of its vector; None if it was not compared
Near = tuple[Sequence[Any], Likeness]  #: keys of the nearest passages, the best first

_COLUMNS = [field.name for field in fields(Passage)]
_QUOTED = '"{}"'.format  #: a word as FTS5 looks for it
_TABLES = f"""
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
CREATE TABLE passages (number INTEGER PRIMARY KEY, {", ".join(f"{name} TEXT NOT NULL" for name in _COLUMNS)});
CREATE VIRTUAL TABLE words USING fts5(
    headings, text, content = '', tokenize = "{TOKENIZER}"
);
"""


class FileStore:
    """The files of an index. `ElasticsearchStore` has the same methods, with other keys of passages."""

    def __init__(self, database: sqlite3.Connection, vectors: Vectors | None) -> None:
        self._database, self._vectors = database, vectors
        self.has_vectors = vectors is not None

    def begin(self) -> None:
        """Begin a search, which files do not limit."""

    def by_words(self, words: Sequence[str], most: int) -> list[int]:
        """Return the keys of the passages that have the rarest of these words, the best by BM25 first."""
        if not (kept := rarest(self._count(words, MOST_RANKED))):
            return []
        best, any_of = "SELECT rowid FROM words WHERE words MATCH ? ORDER BY rank, rowid LIMIT ?", map(_QUOTED, kept)
        return [number for (number,) in self._database.execute(best, (" OR ".join(any_of), most))]

    def count_words(self, words: Sequence[str]) -> tuple[dict[str, int], int]:
        """Return how many passages have each word, and how many passages there are."""
        passages = count_passages(self._database)
        return self._count(words, passages), passages

    def by_vector(self, vector: Vectors, most: int) -> Near:
        """Return the nearest passages; all are compared."""
        assert self._vectors is not None
        likeness = self._vectors @ vector
        some = np.argpartition(-likeness, most)[:most] if most < len(likeness) else np.arange(len(likeness))
        best = some[np.lexsort((some, -likeness[some]))]
        return [int(number) for number in best], lambda number: float(likeness[number])

    def read(self, numbers: Sequence[int]) -> Iterator[tuple[int, Passage]]:
        """Yield passages with their keys; those that do not exist are left out."""
        return read_passages(self._database, numbers)

    def close(self) -> None:
        """Close the files."""
        self._database.close()

    def _count(self, words: Sequence[str], most: int) -> dict[str, int]:
        counted = "SELECT count(*) FROM (SELECT 1 FROM words WHERE words MATCH ? LIMIT ?)"
        return {word: self._database.execute(counted, (_QUOTED(word), most)).fetchone()[0] for word in words}


def rarest(counts: Mapping[str, int]) -> list[str]:
    """Return the words to look for, of words with the numbers of passages that have them; see `MOST_RANKED`."""
    kept, ranked = list[str](), 0
    for word in sorted(filter(counts.get, counts), key=counts.__getitem__):
        ranked += counts[word]
        if kept and ranked > MOST_RANKED:
            break
        kept.append(word)
    return kept


def write_passages(folder: Path, passages: Iterable[Passage]) -> int:
    """Write the database of an index in an empty folder, and return how many passages it has."""
    number = -1
    with closing(sqlite3.connect(folder / DATABASE, isolation_level=None)) as database:
        database.executescript(_TABLES)
        database.execute("BEGIN")
        for number, passage in enumerate(passages):
            row = [getattr(passage, name) for name in _COLUMNS]
            database.execute(f"INSERT INTO passages VALUES (?{', ?' * len(row)})", (number, *row))
            words = [" ".join(terms_of(text)) for text in (passage.headings, passage.text)]
            database.execute("INSERT INTO words (rowid, headings, text) VALUES (?, ?, ?)", (number, *words))
        database.execute("INSERT INTO words (words) VALUES ('optimize')")
        database.execute("CREATE INDEX by_document ON passages (document)")
        database.execute("COMMIT")
    return number + 1


def new_vectors(folder: Path, number: int) -> Vectors:
    """Return an array of `number` vectors, which writes into a new file."""
    if number:
        mapped: Vectors = np.lib.format.open_memmap(folder / VECTORS, "w+", np.float32, (number, DIMENSIONS))
        return mapped
    np.save(folder / VECTORS, empty := np.empty((0, DIMENSIONS), np.float32))  # an empty file cannot be mapped
    return empty


def open_database(folder: Path) -> sqlite3.Connection:
    """Open the database of an index for reading; several threads may use it, one at a time."""
    where = f"{(folder / DATABASE).absolute().as_uri()}?mode=ro&immutable=1"
    return sqlite3.connect(where, uri=True, check_same_thread=False)


def read_passages(database: sqlite3.Connection, numbers: Iterable[int]) -> Iterator[tuple[int, Passage]]:
    """Yield passages with their numbers; those that do not exist are left out."""
    query = f"SELECT {', '.join(_COLUMNS)} FROM passages WHERE number = ?"
    for number in numbers:
        for row in database.execute(query, (number,)):
            yield number, Passage(**dict(zip(_COLUMNS, row, strict=True)))


def passages_of(database: sqlite3.Connection, documents: Iterable[str]) -> Iterator[Passage]:
    """Yield the passages of some documents, by their ids, in the order of each document."""
    query = f"SELECT {', '.join(_COLUMNS)} FROM passages WHERE document = ? ORDER BY number"
    for document in documents:
        for row in database.execute(query, (document,)):
            yield Passage(**dict(zip(_COLUMNS, row, strict=True)))


def read_texts(database: sqlite3.Connection) -> Iterator[list[tuple[str, str]]]:
    """Yield headings and text of all passages in the order of their numbers, some at a time."""
    rows = database.execute("SELECT headings, text FROM passages ORDER BY number")
    while some := list(islice(rows, TOGETHER)):
        yield some


def count_passages(database: sqlite3.Connection) -> int:
    """Return how many passages an index has."""
    return int(database.execute("SELECT count(*) FROM passages").fetchone()[0])


def only_adds(index: Path, served: Path | None) -> bool:
    """Return whether an index is another one than the served and has all its passages. A damaged one is to be replaced.

    Args:
        index: a finished artifact.
        served: the folder of the served index; None: there is none.
    """
    if served is None or served.name == index.name:
        return False
    try:
        return _passage_ids(served) <= _passage_ids(index)
    except sqlite3.Error:
        return False


def _passage_ids(folder: Path) -> set[str]:
    with closing(open_database(folder)) as database:
        return {passage for (passage,) in database.execute("SELECT id FROM passages")}


def open_vectors(folder: Path, number: int) -> Vectors:
    """Map the vectors of an index into memory.

    Args:
        folder: of the index.
        number: of its passages.

    Raises:
        ArtifactError: if the file cannot be read, or has another number of vectors.
    """
    try:
        vectors: Vectors = np.load(folder / VECTORS, mmap_mode="r" if number else None)
    except (OSError, ValueError, EOFError) as error:
        raise ArtifactError(f"{folder / VECTORS} cannot be read ({error}); delete {folder}, make it again.") from None
    if vectors.shape != (number, DIMENSIONS):
        raise ArtifactError(
            f"{folder} has {number} passages and vectors of the shape {vectors.shape}; delete it and make it again."
        )
    return vectors
