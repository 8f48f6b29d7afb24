"""Take rows out of Parquet and Arrow files, a name out of texts and event databases: each file whole or not at all."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Collection, Iterable
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from llmops.artifacts import write_whole
from llmops.erasure.search import cells, naming_cells, quoted
from llmops.erasure.subject import Subject
from llmops.monitoring.database import BUSY_S


def take_rows(path: Path, numbers: Collection[int]) -> None:
    """Write a Parquet or Arrow file anew without the rows of these numbers, from 0.

    Nothing of them is left in its pages, dictionaries or statistics.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    with ExitStack() as opened:
        batches: Iterable[pa.RecordBatch]
        if path.suffix == ".arrow":
            batches = stream = opened.enter_context(pa.ipc.open_stream(opened.enter_context(pa.memory_map(str(path)))))
            writer = opened.enter_context(pa.ipc.new_stream(partial, stream.schema))
        else:
            file = pq.ParquetFile(path)
            batches = file.iter_batches()
            writer = opened.enter_context(pq.ParquetWriter(partial, file.schema_arrow, compression="zstd"))
        start, gone = 0, np.fromiter(numbers, np.int64)
        for batch in batches:
            kept = ~np.isin(np.arange(start, start + batch.num_rows), gone)
            start += batch.num_rows
            if kept.any():
                writer.write_batch(batch.filter(pa.array(kept)))
    with open(partial, "rb") as handle:
        os.fsync(handle.fileno())
    os.replace(partial, path)


def take_lines(path: Path, numbers: Collection[int]) -> None:
    """Write a text file anew without the lines of these numbers, from 0."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    write_whole(path, "".join(line for number, line in enumerate(lines) if number not in numbers).encode())


def hide(path: Path, subject: Subject) -> None:
    """Put a mark where a text file names the person."""
    text = path.read_text(encoding="utf-8", errors="replace")
    mode = path.stat().st_mode
    write_whole(path, subject.hide_lines(text).encode())
    os.chmod(path, mode)


def hide_in_database(path: Path, subject: Subject) -> None:
    """Put a mark where a SQLite database names the person.

    The file is then written anew (`VACUUM`), since its free pages would still name them. Others may use the database
    meanwhile.
    """
    with closing(sqlite3.connect(path, timeout=BUSY_S)) as database:
        with database:
            for table, column, row, text in naming_cells(cells(database), subject):
                change = f"UPDATE {quoted(table)} SET {quoted(column)} = ? WHERE rowid = ?"
                database.execute(change, (subject.hide(text), row))
        database.execute("VACUUM")
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
