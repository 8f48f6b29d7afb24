"""Search every file for a person: what an erasure is proved with.

Parquet is searched cell by cell, a SQLite file cell by cell and byte by byte (deleted rows stay in its free pages until
it is rewritten), that of an index, which is never changed, cell by cell and word by word, text line by line, and
anything else byte by byte. The numbers in JSON of texts and databases are
counts, which are nobody's. Not searched are weights, which are numbers, and the tokenizers and pictures, which are made
of no row.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from itertools import chain, islice, pairwise
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from llmops.data.index.files import DATABASE
from llmops.erasure.subject import Subject, without_numbers
from llmops.records import is_key

TEXT = {".json", ".jsonl", ".txt", ".md", ".log", ".csv", ".tsv", ".xml", ".html", ".yaml", ".yml", ".svg"}
NUMBERS = {".safetensors", ".bin", ".pt", ".pth", ".gguf", ".npy", ".npz", ".png"}
TOKENIZERS = {"tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "tokenizer.model"}

Cell = tuple[str, str, int, str]  #: of a database: table, column, row number, text

_SQLITE = b"SQLite format 3\0"
_NUMBER = re.compile(rb'(?<=":)\s?-?\d[\d.eE+-]*')  #: of an object in JSON
_TOGETHER = 20_000  #: lines or cells that are looked at together
_CHUNK, _OVERLAP = 4 << 20, 4 << 10  #: bytes


def files(roots: Iterable[Path]) -> list[Path]:
    """Every file below the folders, sorted; once, also if one folder is inside another."""
    return sorted({path.absolute() for root in roots for path in root.rglob("*") if path.is_file()})


def searchable(path: Path) -> bool:
    """Whether a file can hold anything of a row."""
    return path.suffix not in NUMBERS and path.name not in TOKENIZERS


def where_named(path: Path, subject: Subject) -> str:
    """Where in the file the person is named, in words; empty: nowhere, also in one that an app which runs has put
    something in the place of meanwhile."""
    try:
        return _where_named(path, subject)
    except FileNotFoundError:
        return ""


def _where_named(path: Path, subject: Subject) -> str:
    if path.suffix == ".parquet" and not path.name.startswith("."):
        return _in_parquet(path, subject)
    if path.suffix in TEXT:
        return _in_lines(path, subject)
    database = is_database(path)
    if database and path.name == DATABASE and (there := _in_index(path, subject)) is not None:
        return there
    if database and (cell := _in_cells(path, subject)):
        return cell
    for chunk in _chunks(path):
        if subject.named_in_bytes(chunk) and not (database and not subject.named_in_bytes(_NUMBER.sub(b"", chunk))):
            return "in its bytes"
    return ""


def is_database(path: Path) -> bool:
    """Whether this is a SQLite file."""
    with open(path, "rb") as handle:
        return handle.read(len(_SQLITE)) == _SQLITE


def naming_cells(found: Iterable[Cell], subject: Subject) -> Iterator[Cell]:
    """The cells that name the person, in order."""
    found = iter(found)
    while some := list(islice(found, _TOGETHER)):
        rows = subject.rows(pl.Series([text for *_, text in some], dtype=pl.String))
        yield from (some[row] for row in rows if subject.named_in(without_numbers(some[row][-1])))


def cells(database: sqlite3.Connection) -> Iterator[Cell]:
    """Table, column, row number and text of every cell with text, of the tables that number their rows."""
    tables = database.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND sql NOT LIKE '%WITHOUT ROWID%'")
    for (table,) in tables.fetchall():
        for _, column, *_ in database.execute(f"PRAGMA table_info({quoted(table)})").fetchall():
            select = f"SELECT rowid, {quoted(column)} FROM {quoted(table)} WHERE typeof({quoted(column)}) = 'text'"
            for row, text in database.execute(select).fetchall():
                yield table, column, row, text


def quoted(name: str) -> str:
    """The name of a table or column, as SQL takes it."""
    return '"' + name.replace('"', '""') + '"'


def _in_parquet(path: Path, subject: Subject) -> str:
    file, start = pq.ParquetFile(path), 0
    for batch in file.iter_batches():
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            while pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
                column = column.flatten()
            if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
                continue
            values = list(dict.fromkeys(value for value in column.to_pylist() if value))
            if name == "position":
                values = [value for value in values if is_key(value)]  # any other is a number that is nobody's
            if (
                subject.rows(pl.Series(values, dtype=pl.String))
                or name == "location"
                and _in_locations(values, subject)
            ):
                return f"in the column {name}, in rows {start} to {start + batch.num_rows - 1}"
        start += batch.num_rows
    return ""


def _in_locations(values: Iterable[str], subject: Subject) -> bool:
    return any(subject.named_in_location(value) for value in values)


def _in_lines(path: Path, subject: Subject) -> str:
    with open(path, encoding="utf-8", errors="replace") as handle:
        where = _naming_line(handle, subject)
    if where and path.suffix == ".json":
        text = path.read_text(encoding="utf-8", errors="replace")
        where = _naming_line(without_numbers(text).splitlines(keepends=True), subject)
    return where


def _naming_line(lines: Iterable[str], subject: Subject) -> str:
    """Looks at each line with the next one, since a name may be broken over two."""
    number, pairs = 1, pairwise(chain(lines, [""]))
    while some := list(islice(pairs, _TOGETHER)):
        for row in subject.rows(pl.Series(["".join(two) for two in some], dtype=pl.String)):
            if subject.named_in("".join(map(without_numbers, some[row]))):
                return f"in line {number + row}"
        number += len(some)
    return ""


def _in_cells(path: Path, subject: Subject) -> str:
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=30)) as database:
            for table, column, row, _ in naming_cells(cells(database), subject):
                return f"in the table {table}, column {column}, row {row}"
    except sqlite3.DatabaseError:  # no database after all, or one that needs an extension: its bytes are searched still
        return ""
    return ""


def _in_index(path: Path, subject: Subject) -> str | None:
    """Where the database of an index names the person, in its passages or in its words; None if it cannot be read.

    Its bytes would tell wrongly, for of a word that begins as the one before it has only the rest: `smith` of
    `goldsmith`.
    """
    from llmops.data.index.database import misplaced

    def named(words: Sequence[str]) -> list[str]:
        return [words[at] for at in subject.rows(pl.Series(words, dtype=pl.String))]

    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as database:
            found = (cell for cell in cells(database) if cell[1] != "position" or is_key(cell[3]))
            for table, column, row, _ in naming_cells(found, subject):
                return f"in the table {table}, column {column}, row {row}"
            places = [place for (place,) in database.execute("SELECT DISTINCT location FROM passages")]
        if _in_locations(places, subject):
            return "in the table passages, column location"
        number = misplaced(path.parent, named)
    except sqlite3.Error:
        return None
    return "" if number is None else f"in the words of passage {number}"


def _chunks(path: Path) -> Iterator[bytes]:
    with open(path, "rb") as handle:
        tail = b""
        while data := handle.read(_CHUNK):
            yield tail + data
            tail = data[-_OVERLAP:]
