"""The SQLite file of an index: its passages, and their words for full-text search (FTS5, ranked by BM25).

Both are numbered as the rows of the vectors are. The words are there without a second copy of the text.
"""

from __future__ import annotations

import os
import sqlite3
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from llmops.data.index import vectors
from llmops.data.index.files import COLUMNS, COMMON, DATABASE, PASSAGES, TOKENIZER, VECTORS, open_database
from llmops.data.index.terms import terms_of
from llmops.errors import ArtifactError

TOGETHER = 4_096

_TABLES = f"""
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
CREATE TABLE passages (number INTEGER PRIMARY KEY, {", ".join(f"{name} TEXT NOT NULL" for name in COLUMNS)});
CREATE TABLE common (word TEXT PRIMARY KEY, passages INTEGER NOT NULL) WITHOUT ROWID;
CREATE VIRTUAL TABLE words USING fts5(
    headings, text, content = '', tokenize = "{TOKENIZER}"
);
"""
_PASSAGE = f"INSERT INTO passages VALUES ({', '.join('?' * (len(COLUMNS) + 1))})"
_WORDS = "INSERT INTO words (rowid, headings, text) VALUES (?, ?, ?)"


def write(folder: Path) -> None:
    """Write the database of the passages of a folder, whole or not at all."""
    partial = folder / f".{DATABASE}.new"
    partial.unlink(missing_ok=True)
    counts = Counter[str]()
    with closing(sqlite3.connect(partial, isolation_level=None)) as database:
        database.executescript(_TABLES)
        database.execute("BEGIN")
        start = 0
        for rows in rows_of(folder):
            for number, row in enumerate(rows, start):
                counts.update(_add_words(database, number, row["headings"], row["text"]))
                database.execute(_PASSAGE, (number, *(row[name] for name in COLUMNS)))
            start += len(rows)
        common = sorted(one for one in counts.items() if one[1] >= COMMON)
        database.executemany("INSERT INTO common VALUES (?, ?)", common)
        database.execute("INSERT INTO words (words) VALUES ('optimize')")
        database.execute("COMMIT")
    with open(partial, "rb") as handle:
        os.fsync(handle.fileno())
    os.replace(partial, folder / DATABASE)


def rewrite(folder: Path, gone: Collection[int]) -> None:
    """Bring an index's database and vectors in line with its passages, of which some have been taken out.

    It may be broken off and begun again: vectors that are in line are left alone, and the database is made of nothing
    but the passages, whatever state it is in.

    Args:
        folder: of the index.
        gone: the numbers, from 0, that the passages had which have been taken out.

    Raises:
        ArtifactError: if the vectors are damaged, so that nobody knows whose they are, or the passages are gone.
    """
    if not (folder / PASSAGES).is_file():
        raise ArtifactError(f"{folder / PASSAGES} is gone.")
    if (folder / VECTORS).exists():
        vectors.take(folder, gone, pq.read_metadata(folder / PASSAGES).num_rows)
    write(folder)


def misplaced(folder: Path, of: Callable[[Sequence[str]], Iterable[str]]) -> int | None:
    """The number of a passage for which the words have one that it does not have; None if there is none.

    Args:
        folder: of the index.
        of: gives the words, as the database knows them, that are looked for.
    """
    with closing(open_database(folder)) as database, closing(sqlite3.connect(":memory:", isolation_level=None)) as anew:
        anew.executescript(_TABLES)
        for one in (database, anew):
            for kind in ("row", "instance"):
                one.execute(f"CREATE VIRTUAL TABLE temp.words_by_{kind} USING fts5vocab(main, words, {kind})")
        there = "SELECT DISTINCT doc FROM temp.words_by_instance WHERE term = ?"
        for word in of([word for (word,) in database.execute("SELECT term FROM temp.words_by_row")]):
            for (number,) in database.execute(there, (word,)).fetchall():
                row = database.execute("SELECT headings, text FROM passages WHERE number = ?", (number,)).fetchone()
                anew.execute("INSERT INTO words (words) VALUES ('delete-all')")
                _add_words(anew, number, *(row or ("", "")))
                if not anew.execute(there, (word,)).fetchone():
                    return int(number)
    return None


def _add_words(database: sqlite3.Connection, number: int, headings: str, text: str) -> set[str]:
    parts = terms_of(headings), terms_of(text)
    database.execute(_WORDS, (number, *map(" ".join, parts)))
    return set().union(*parts)


def rows_of(folder: Path) -> Iterator[list[dict[str, Any]]]:
    """The passages of a folder, some at a time."""
    for batch in pq.ParquetFile(folder / PASSAGES).iter_batches(TOGETHER, columns=list(COLUMNS)):
        yield batch.to_pylist()
