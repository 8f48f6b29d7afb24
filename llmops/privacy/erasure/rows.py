"""Find a person's rows by words, conversation or ids in the data as it was read; remove them from the repository."""

import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from llmops.config import Config
from llmops.data.collect import repository
from llmops.data.collect.forgotten_list import TEXT_FIELDS
from llmops.data.credentials import read_environment
from llmops.data.remote import is_remote
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


def find_person_rows(
    files: Sequence[Path | bytes], subject: Subject | None, ids: Collection[str] = ()
) -> list[PersonRow]:
    """Return the person's rows in Parquet files of one read, each a path or the content of a file.

    They are rows that name the subject, messages of the same conversation, other versions of the same row, and rows
    with one of the ids. Rows of another read with the same origin do not count: row 12 of yesterday's file may have
    been another person's.
    """
    named = _read_rows(files, lambda frame: _find_naming(frame, subject)) if subject else ()
    origins = {row.origin for row in named}
    all_rows = _read_rows(files, lambda frame: range(len(frame))) if origins or ids else ()
    return [row for row in all_rows if row.id in ids or row.origin in origins]


def find_in_repository(config: Config, subject: Subject, ids: Collection[str]) -> dict[str, list[PersonRow]]:
    """Return the person's rows in the repository, by the interval of their partition.

    Raises:
        SourceError: if it cannot be reached.
    """
    where, environ = _locate_repository(config), read_environment(config.collect.connection)
    intervals = repository.list_intervals(where, environ) if where else []
    found = {
        interval: find_person_rows(repository.read_parts(where, interval, environ), subject, ids)
        for interval in intervals
    }
    return {interval: rows for interval, rows in found.items() if rows}


def remove_from_repository(config: Config, intervals: Collection[str], subject: Subject, ids: Collection[str]) -> None:
    """Upload partitions again without the person's rows.

    Parts that killed uploads left in any partition are deleted, because they may hold the person's rows.

    Raises:
        RepositoryError: if the repository refuses the partitions.
        SourceError: if the repository cannot be reached.
    """
    where, environ = _locate_repository(config), read_environment(config.collect.connection)
    for interval in repository.list_intervals(where, environ) if where else []:
        if interval in intervals:
            _upload_without(config, where, interval, subject, ids)
        repository.delete_leftovers(where, interval, environ)


def _upload_without(config: Config, where: str, interval: str, subject: Subject, ids: Collection[str]) -> None:
    environ = read_environment(config.collect.connection)
    parts = repository.read_parts(where, interval, environ)
    deleted = {(row.file, row.number) for row in find_person_rows(parts, subject, ids)}
    if not deleted:  # an interrupted erasure has done it
        return
    with tempfile.TemporaryDirectory(dir=config.home, prefix=".erasure-") as folder:
        documents = Path(folder) / "documents.parquet"
        with pq.ParquetWriter(documents, pq.read_schema(pa.BufferReader(parts[0])), compression="zstd") as writer:
            for file, data in enumerate(parts):  # a row group for each part, as `upload` makes them
                table = pq.read_table(pa.BufferReader(data))
                is_kept = [(file, number) not in deleted for number in range(len(table))]
                kept = table.filter(pa.array(is_kept, pa.bool_()))
                if len(kept):
                    writer.write_table(kept, row_group_size=len(kept))
        repository.upload_documents(documents, where, interval, environ)


def _locate_repository(config: Config) -> str:
    where = config.collect.repository
    return where if is_remote(where) or not where else str(config.collect.root / where)


def _read_rows(files: Sequence[Path | bytes], choose: Callable[[pl.DataFrame], Iterable[int]]) -> Iterator[PersonRow]:
    for file, source in enumerate(files):
        start, opened = 0, pq.ParquetFile(pa.BufferReader(source) if isinstance(source, bytes) else source)
        for frame in map(pl.DataFrame, map(pl.from_arrow, opened.iter_batches(BATCH))):
            columns = frame.select("id", "source", "location", "position")
            yield from (PersonRow(file, start + at, *columns.row(at)) for at in choose(frame))
            start += len(frame)


def _find_naming(frame: pl.DataFrame, subject: Subject) -> set[int]:
    keys = frame.select(pl.when(pl.col("position").str.starts_with(KEY_PREFIX)).then("position").otherwise(pl.lit("")))
    texts = [keys.to_series(), *(frame[name] for name in TEXT_FIELDS if name in frame.columns)]
    after = [path for path in frame["location"].unique() if subject.is_named_in_location(path)]
    return set().union(frame["location"].is_in(after).arg_true(), *map(subject.find_rows, texts))
