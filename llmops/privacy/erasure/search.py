"""Search all files and the database for a person, to find their documents and to prove an erasure.

Parquet and the databases are searched cell by cell, SQLite files byte by byte as well (deleted rows stay in free pages
until the file is rewritten), text line by line, and anything else byte by byte. Numbers in JSON are left out, because
they are counts. Weights are left out, too, and so are tokenizers and pictures, which are made of no row.
"""

import json
import re
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import sqlalchemy as sa

from llmops.config import Config
from llmops.data.text.identifiers import list_location_names
from llmops.frame.records import is_row_key
from llmops.privacy.erasure.subject import Subject, remove_numbers
from llmops.state.database import Database
from llmops.state.tables import metadata

TEXT_SUFFIXES = {".json", ".jsonl", ".txt", ".md", ".log", ".csv", ".tsv", ".xml", ".html", ".yaml", ".yml", ".svg"}
_NUMERIC_SUFFIXES = {".safetensors", ".bin", ".pt", ".pth", ".gguf", ".npy", ".npz", ".png"}
_TOKENIZER_FILES = {
    "tokenizer.json", "tokenizer_config.json", "vocab.json", "vocab.txt", "merges.txt", "tokenizer.model",
    "special_tokens_map.json", "added_tokens.json",
}  # fmt: skip
_FIXED_VALUE_COLUMNS = {
    "version",
    "role",
    "kind",
    "outcome",
    "action",
    "split",
    "side",
    "state",
    "severity",
}  #: columns
_SQLITE_HEADER = b"SQLite format 3\0"
_JSON_NUMBER = re.compile(rb'(?<=":)\s?-?\d[\d.eE+-]*')  #: of an object in JSON
_BATCH = 20_000  #: lines or cells
_CHUNK, _OVERLAP = 4 << 20, 4 << 10  #: bytes


def list_roots(config: Config) -> list[Path]:
    """Return the folders that are searched: the home, and those that the configuration puts elsewhere."""
    return [config.home, config.collect.cache, config.registry, config.features.store]


def find_files(config: Config, subject: Subject) -> list[Path]:
    """Return the files that name the person, or are named after them, sorted."""
    files = sorted({path.absolute() for root in list_roots(config) for path in root.rglob("*") if path.is_file()})
    files = [path for path in files if path.suffix not in _NUMERIC_SUFFIXES and path.name not in _TOKENIZER_FILES]
    return [path for path in files if subject.is_named_in_location(path.name) or is_named_in_file(path, subject)]


def is_named_in_file(path: Path, subject: Subject) -> bool:
    """Return True if a file names the person."""
    if path.suffix == ".parquet" and not path.name.startswith("."):
        return any(find_cells(_read_parquet(path), subject))
    if path.suffix in TEXT_SUFFIXES:
        return any(find_cells(_read_lines(path), subject))
    with path.open("rb") as handle:
        database = handle.read(len(_SQLITE_HEADER)) == _SQLITE_HEADER
    if database:
        with (
            suppress(sqlite3.DatabaseError),  # a table may need an extension; the bytes are searched below
            closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=30)) as opened,
        ):
            if any(find_cells(read_cells(opened), subject)):
                return True
    chunks = (_JSON_NUMBER.sub(b"", chunk) if database else chunk for chunk in _read_chunks(path))
    return any(subject.is_spelled_in(chunk.decode("utf-8", "replace")) for chunk in chunks)


def is_named_in_state(database: Database, subject: Subject) -> bool:
    """Return True if the database names the person."""
    if not database.exists:
        return False
    with database.read() as connection:
        return any(find_cells(read_state_cells(connection), subject))


def find_cells(found: Iterable[tuple[Any, ...]], subject: Subject) -> Iterator[tuple[Any, ...]]:
    """Yield the cells that name the person, in order; the last value of each is its text."""
    found = iter(found)
    while batch := list(islice(found, _BATCH)):
        rows = subject.find_rows(pl.Series([text for *_, text in batch], dtype=pl.String))
        yield from (batch[row] for row in rows if subject.is_named_in(remove_numbers(batch[row][-1])))


def read_cells(database: sqlite3.Connection) -> Iterator[tuple[str, str, int, str]]:
    """Yield table, column, row number and text of every text cell, of all tables with row numbers."""
    tables = database.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND sql NOT LIKE '%WITHOUT ROWID%'")
    for (table,) in tables.fetchall():
        for _, column, *_ in database.execute(f'PRAGMA table_info("{table}")').fetchall():
            select = f'SELECT rowid, "{column}" FROM "{table}" WHERE typeof("{column}") = \'text\''
            for row, text in database.execute(select).fetchall():
                yield table, column, row, text


def read_state_cells(connection: sa.Connection) -> Iterator[tuple[sa.Table, tuple[Any, ...], sa.Column[Any], str]]:
    """Yield table, primary key, column and text of every text cell of the database outside primary keys."""
    for table in metadata.sorted_tables:
        keys = list(table.primary_key)
        texts = [c for c in table.c if isinstance(c.type, sa.Text | sa.JSON) and not c.primary_key]
        texts = [column for column in texts if column.name not in _FIXED_VALUE_COLUMNS]
        for row in connection.execute(sa.select(*keys, *texts)) if texts else ():
            for column, value in zip(texts, row[len(keys) :], strict=True):
                text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
                yield table, tuple(row[: len(keys)]), column, text


def _read_parquet(path: Path) -> Iterator[tuple[str]]:
    for batch in pq.ParquetFile(path).iter_batches():
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            while pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
                column = column.flatten()
            if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
                texts = dict.fromkeys(text for text in column.to_pylist() if text)
                if name == "location":
                    yield from ((one,) for text in texts for one in list_location_names(text))
                yield from ((text,) for text in texts if name != "position" or is_row_key(text))


def _read_lines(path: Path) -> Iterator[tuple[str]]:
    """Yield each line of a text with the next one, because a name may be broken over two; JSON in one piece."""
    with path.open(encoding="utf-8", errors="replace") as handle:
        lines = [handle.read()] if path.suffix == ".json" else handle
        yield from ((first + second,) for first, second in pairwise(chain(lines, [""])))


def _read_chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as handle:
        tail = b""
        while data := handle.read(_CHUNK):
            yield tail + data
            tail = data[-_OVERLAP:]
