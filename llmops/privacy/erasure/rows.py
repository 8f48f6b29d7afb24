"""Find a person's rows by words, conversation or ids in the data as it was read; remove them from the repository."""

import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from llmops.config import Config
from llmops.data.collect import repository
from llmops.data.collect.forgotten_list import TEXT_FIELDS
from llmops.data.credentials import read_environment
from llmops.data.remote import is_remote
from llmops.data.row_file import RowFile
from llmops.frame.records import KEY_PREFIX, remove_message_number
from llmops.privacy.erasure.subject import Subject

BATCH = 20_000


class PersonRow(NamedTuple):
    """A person's row in one of several Parquet files."""

    file: int  #: number of the file
    number: int  #: in the file, from 0
    id: str
    source: str
    location: str
    position: str

    @property
    def origin(self) -> tuple[str, str, str]:
        """Return the row's origin in the sources. All messages of a conversation have the same origin."""
        return self.source, self.location, remove_message_number(self.position)


def find_person_rows(files: Sequence[Path], subject: Subject | None, ids: Collection[str] = ()) -> list[PersonRow]:
    """Return the person's rows in Parquet files of one read.

    They are rows that name the subject, messages of the same conversation, other versions of the same row, and rows
    with one of the ids. Rows of another read with the same origin do not count: row 12 of yesterday's file may have
    been another person's.
    """
    named = _read_rows(files, lambda frame: _find_naming(frame, subject)) if subject else ()
    origins = {row.origin for row in named}
    all_rows = _read_rows(files, lambda frame: range(len(frame))) if origins or ids else ()
    return [row for row in all_rows if row.id in ids or row.origin in origins]


def find_in_repository(config: Config, subject: Subject, ids: Collection[str]) -> dict[str, list[PersonRow]]:
    """Return the person's rows in the repository, by interval.

    Raises:
        SourceError: if it cannot be reached.
        RepositoryError: if an earlier version wrote it.
    """
    where, environ = _locate_repository(config), read_environment(config.collect.connection)
    found = {}
    for interval in repository.list_intervals(where, environ) if where else []:
        with _make_folder(config) as folder:
            documents = repository.fetch_documents(where, interval, folder, environ)
            found[interval] = find_person_rows([documents] if documents else [], subject, ids)
    return {interval: rows for interval, rows in found.items() if rows}


def remove_from_repository(config: Config, intervals: Collection[str], subject: Subject, ids: Collection[str]) -> None:
    """Upload the documents of `intervals` again without the person's rows.

    Leftovers of killed uploads are deleted in all intervals, because they may hold the person's rows.

    Raises:
        RepositoryError: if the repository refuses the documents.
        SourceError: if the repository cannot be reached.
    """
    if where := _locate_repository(config):
        repository.delete_unfinished(where)
    for interval in intervals:
        with _make_folder(config) as folder:
            _upload_without(folder, config, where, interval, subject, ids)


def _upload_without(
    folder: Path, config: Config, where: str, interval: str, subject: Subject, ids: Collection[str]
) -> None:
    environ = read_environment(config.collect.connection)
    documents = repository.fetch_documents(where, interval, folder, environ)
    deleted = [row.number for row in find_person_rows([documents] if documents else [], subject, ids)]
    if not (documents and deleted):  # an interrupted erasure has done it
        return
    with pq.ParquetFile(documents) as file, RowFile(folder / "kept.parquet", file.schema_arrow) as kept:
        start = 0
        for batch in file.iter_batches(BATCH):
            table = pa.Table.from_batches([batch])
            is_kept = ~np.isin(np.arange(start, start + len(table)), deleted)
            kept.add(table.filter(pa.array(is_kept)))
            start += len(table)
    repository.upload_documents(folder / "kept.parquet", where, interval, environ)


@contextmanager
def _make_folder(config: Config) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=config.home, prefix=".erasure-") as folder:
        yield Path(folder)


def _locate_repository(config: Config) -> str:
    where = config.collect.repository
    return where if is_remote(where) or not where else str(config.collect.root / where)


def _read_rows(files: Sequence[Path], choose: Callable[[pl.DataFrame], Iterable[int]]) -> Iterator[PersonRow]:
    for file, path in enumerate(files):
        start = 0
        with pq.ParquetFile(path) as opened:
            for frame in map(pl.DataFrame, map(pl.from_arrow, opened.iter_batches(BATCH))):
                columns = frame.select("id", "source", "location", "position")
                yield from (PersonRow(file, start + at, *columns.row(at)) for at in choose(frame))
                start += len(frame)


def _find_naming(frame: pl.DataFrame, subject: Subject) -> set[int]:
    keys = frame.select(pl.when(pl.col("position").str.starts_with(KEY_PREFIX)).then("position").otherwise(pl.lit("")))
    texts = [keys.to_series(), *(frame[name] for name in TEXT_FIELDS if name in frame.columns)]
    after = [path for path in frame["location"].unique() if subject.is_named_in_location(path)]
    return set().union(frame["location"].is_in(after).arg_true(), *map(subject.find_rows, texts))
