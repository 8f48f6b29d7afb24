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
from llmops.data.collect.forgotten import TEXTS
from llmops.data.credentials import environment
from llmops.data.remote import is_remote
from llmops.frame.records import KEY, without_message
from llmops.privacy.erasure.subject import Subject

BATCH = 20_000


class Row(NamedTuple):
    """A person's row in one of several Parquet files."""

    file: int  #: which of them
    number: int  #: in the file, from 0
    id: str
    source: str
    location: str
    position: str

    @property
    def place(self) -> tuple[str, str, str]:
        """Return the row's place. All messages of a conversation have the same place."""
        return self.source, self.location, without_message(self.position)


def find(files: Sequence[Path | bytes], subject: Subject | None, ids: Collection[str] = ()) -> list[Row]:
    """Return the person's rows in Parquet files that were read together, each a path or the content of one.

    These name the person (without a subject none do), are messages of such a conversation or other versions of such a
    row, or have one of the ids. A place alone says nothing elsewhere: row 12 of yesterday's file may have been another
    person's.
    """
    named = _rows(files, lambda frame: _naming(frame, subject)) if subject else ()
    places = {row.place for row in named}
    every = _rows(files, lambda frame: range(len(frame))) if places or ids else ()
    return [row for row in every if row.id in ids or row.place in places]


def in_repository(config: Config, subject: Subject, ids: Collection[str]) -> dict[str, list[Row]]:
    """Return the person's rows in the repository, by the interval of their partition.

    Raises:
        SourceError: if it cannot be reached.
    """
    where, environ = _repository(config), environment(config.collect.connection)
    intervals = repository.intervals(where, environ) if where else []
    found = {one: find(repository.read(where, one, environ), subject, ids) for one in intervals}
    return {interval: some for interval, some in found.items() if some}


def take_out(config: Config, intervals: Collection[str], subject: Subject, ids: Collection[str]) -> None:
    """Upload partitions again without the person's rows.

    Parts that killed uploads left in any partition are deleted, since nobody knows whose rows they hold.

    Raises:
        RepositoryError: if the repository refuses the partitions.
        SourceError: if the repository cannot be reached.
    """
    where, environ = _repository(config), environment(config.collect.connection)
    for interval in repository.intervals(where, environ) if where else []:
        if interval in intervals:
            _upload_without(config, where, interval, subject, ids)
        repository.clear(where, interval, environ)


def _upload_without(config: Config, where: str, interval: str, subject: Subject, ids: Collection[str]) -> None:
    environ = environment(config.collect.connection)
    parts = repository.read(where, interval, environ)
    gone = {(row.file, row.number) for row in find(parts, subject, ids)}
    if not gone:  # an erasure that was interrupted has done it
        return
    with tempfile.TemporaryDirectory(dir=config.home, prefix=".erasure-") as folder:
        documents = Path(folder) / "documents.parquet"
        with pq.ParquetWriter(documents, pq.read_schema(pa.BufferReader(parts[0])), compression="zstd") as writer:
            for file, data in enumerate(parts):  # a row group for each part, as `upload` makes them
                table = pq.read_table(pa.BufferReader(data))
                kept = table.filter(pa.array([(file, number) not in gone for number in range(len(table))], pa.bool_()))
                if len(kept):
                    writer.write_table(kept, row_group_size=len(kept))
        repository.upload(documents, where, interval, environ)


def _repository(config: Config) -> str:
    where = config.collect.repository
    return where if is_remote(where) or not where else str(config.collect.root / where)


def _rows(files: Sequence[Path | bytes], choose: Callable[[pl.DataFrame], Iterable[int]]) -> Iterator[Row]:
    for file, source in enumerate(files):
        start, opened = 0, pq.ParquetFile(pa.BufferReader(source) if isinstance(source, bytes) else source)
        for frame in map(pl.DataFrame, map(pl.from_arrow, opened.iter_batches(BATCH))):
            places = frame.select("id", "source", "location", "position")
            yield from (Row(file, start + at, *places.row(at)) for at in choose(frame))
            start += len(frame)


def _naming(frame: pl.DataFrame, subject: Subject) -> set[int]:
    keys = frame.select(pl.when(pl.col("position").str.starts_with(KEY)).then("position").otherwise(pl.lit("")))
    texts = [keys.to_series(), *(frame[name] for name in TEXTS if name in frame.columns)]
    after = [path for path in frame["location"].unique() if subject.named_in_location(path)]
    return set().union(frame["location"].is_in(after).arg_true(), *map(subject.rows, texts))
