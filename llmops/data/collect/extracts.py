"""Extracts: the stored rows of a source, so that unchanged files and past days are not read twice.

An extract is one Parquet file with a reader's rows in order: documents, quarantined rows (with their `rule`), and rows
excluded by `where` (rule `left_out`). A file's extract is `{cache}/{key}.parquet`. The key hashes the file's content,
its location, its reading settings, and the code of the reader and its libraries. If a file exceeds a limit or crashes
its reader, the limits in force follow the key, so that other limits read it again.

A database table with a `cursor` has extracts of periods, `{cache}/{key}/{first day}_{day after the last}.parquet`.
The rows of an interval are those of consecutive periods from the first row on; only the missing days are queried.

The folder may be deleted at any time. The next run reads the sources again.
"""

import glob
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date, timedelta
from functools import partial
from math import ceil
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import sqlalchemy as sa

from llmops.config import Source
from llmops.data.collect.extract_file import ARROW_BATCH, LEFT_OUT, write_extract, write_items
from llmops.data.collect.files import SourceFile
from llmops.data.collect.forgotten_list import ForgottenList
from llmops.data.collect.libraries import list_versions
from llmops.data.collect.readers import feedback_rows, sql_rows
from llmops.data.collect.readers.kinds import READERS, read_file
from llmops.data.collect.readers.origin import Item, Origin
from llmops.data.collect.workers import LimitExceededError, ReaderCrashedError, Records, Workers, replay
from llmops.data.feedback.rows import Review
from llmops.data.remote import RemoteFile, expand_variables
from llmops.frame import intervals
from llmops.frame.artifacts import hold_lock
from llmops.frame.code_version import compute_code_version
from llmops.frame.errors import SourceUnavailableError
from llmops.frame.records import make_content_id
from llmops.frame.transient import is_disk_full
from llmops.state import file_hashes

#: kind → bytes that one process reads per second, to decide if several processes are worth their start
BYTES_PER_S = {"pdf": 50_000, "html": 1_500_000, "markdown": 3_000_000, "": 12_000_000}
MIN_PARALLEL_S = 6.0  #: least seconds of reading for several processes

LIMIT = "limit"  #: rule of a file that takes too much time or memory
TIMED_BYTES = 10**6  #: bytes of a file for which it gets the time of `file_timeout_s` once

#: Time after the end of a period in which its rows may still arrive: by late commits, or from a database with a clock
#: in another zone. Until then every run queries the period again.
SETTLING_TIME = timedelta(days=1)

Period = tuple[date, date]  #: the first day (`date.min`: from the first row on) and the day after the last


class KeyedOrigin(Origin):
    """The origin of rows that are replaced by newer ones with the same key.

    A row excluded by `where` is stored as a placeholder, because it may replace an older row that was not excluded.
    """

    def convert_row(self, position: str, values: Mapping[str, str]) -> Item:
        """Return the document of one row, or its placeholder if `where` excludes it."""
        return super().convert_row(position, values) or self.make_dropped(position, LEFT_OUT, "")


class Extract(NamedTuple):
    """The extract of a file."""

    path: Path
    is_new: bool  #: True if the file had to be read
    records: Records = ()  #: log records of the reading


@dataclass(frozen=True, slots=True)
class Extractor:
    """A maker of extracts. It reuses those that earlier runs left in a cache."""

    cache: Path  #: folder of extracts for later runs
    scratch: Path  #: folder of extracts for this run alone: of files without a version or not read to the end
    database: str  #: URL of the database that caches the hashes of local files
    forgotten: ForgottenList
    workers: Workers  #: processes that read files; they share the list of forgotten persons
    file_timeout_s: float  #: longest time for a file of up to `TIMED_BYTES`, in seconds; a larger one has more

    def extract_files(
        self, files: Sequence[tuple[SourceFile, str]], source: Source, processes: int = 1
    ) -> list[Extract]:
        """Return the extracts of files, in order. See `extract_file`.

        Files that take long to read are read in several processes if allowed. The result is the same.
        """
        unread = [file for file, version in files if not self._find_extract(self._get_path(file, version, source))]
        seconds = sum(file.size or 0 for file in unread) / BYTES_PER_S.get(source.kind, BYTES_PER_S[""])
        threads = max(1, min(processes, len(unread))) if seconds > MIN_PARALLEL_S else 1
        extracts: list[Extract] = []

        def read_one(file: tuple[SourceFile, str]) -> Extract:
            return self.extract_file(*file, source)

        with ThreadPoolExecutor(threads) as pool:
            try:
                for extract in pool.map(read_one, files) if threads > 1 else map(read_one, files):
                    replay(extract.records)
                    extracts.append(extract)
            except Exception:
                raise
            except BaseException:  # an interruption or the stage's time limit: the threads wait for the workers
                self.workers.stop()
                raise
        return extracts

    def _get_path(self, file: SourceFile, version: str, source: Source) -> Path:
        """Return the path of a file's extract; in `scratch` if the file has no version."""
        if not version:
            return self.scratch / f"{make_content_id(file.location)}.parquet"
        reader, libraries = READERS[source.kind].__module__, list_versions(source.kind)
        return self.cache / f"{_compute_key(source, reader, file.location, version, libraries)}.parquet"

    def _get_failed_path(self, path: Path) -> Path:  # of the extract that says that the limits in force are exceeded
        return path.with_name(f"{path.stem}_{self.file_timeout_s}_{self.workers.memory}.parquet")

    def _find_extract(self, path: Path) -> Path | None:
        return next(filter(Path.is_file, (path, self._get_failed_path(path))), None)

    def extract_file(self, file: SourceFile, version: str, source: Source) -> Extract:
        """Return the extract of one file in one version.

        Raises:
            SourceError: if the configuration does not fit the file, or its version has changed.
        """
        path = self._get_path(file, version, source)
        if not version:
            _, records = self._write_file(file, version, source, path)
            return Extract(path, True, records)
        with hold_lock(path):
            if known := self._find_extract(path):
                os.utime(known)  # unused extracts are removed after a while
                return Extract(known, False)
            unfinished = path.with_name(f".{path.name}.new")
            try:
                is_complete, records = self._write_file(file, version, source, unfinished)
            except (LimitExceededError, ReaderCrashedError) as error:
                rule = LIMIT if isinstance(error, LimitExceededError) else "unreadable"
                dropped = Origin(source, file.location).make_dropped("file", rule, str(error))
                write_extract(unfinished, self.forgotten.quarantine_rows([dropped]))
                return Extract(unfinished.replace(self._get_failed_path(path)), True)
            if not is_complete:
                return Extract(Path(shutil.move(unfinished, self.scratch / path.name)), True, records)
            unfinished.replace(path)
            return Extract(path, True, records)

    def _write_file(self, file: SourceFile, version: str, source: Source, path: Path) -> tuple[bool, Records]:
        """Write the extract of a file to `path`. Return True if the file was read to the end, and its log records.

        Raises:
            LimitExceededError, ReaderCrashedError: if the file cannot be read within the limits.
            SourceError: see `extract_file`.
        """
        origin = Origin(source, file.location)
        copy_folder = self.cache / "downloads" if isinstance(file, RemoteFile) else self.scratch / "copies"

        try:
            copy, copied_version = file.fetch(copy_folder)
        except OSError as error:
            if is_disk_full(error):
                raise
            if version:  # it was readable when its version was determined
                raise SourceUnavailableError(
                    f"Source {source.name}: {file.location} cannot be read any more: {error.strerror}; run again."
                ) from error
            unreadable = origin.make_dropped("file", "unreadable", error.strerror or str(error))
            write_extract(path, self.forgotten.quarantine_rows([unreadable]))
            return False, ()
        if copied_version != version:
            file_hashes.clear_cache(self.database)
            raise SourceUnavailableError(
                f"Source {source.name}: {file.location} changed while it was being read; run again."
            )
        write = partial(write_items, path, partial(read_file, copy, origin), origin)
        seconds = self.file_timeout_s * max(1, ceil(_measure_size(copy) / TIMED_BYTES))
        answer: tuple[bool, Records] | Exception
        try:
            answer = self.workers.call(file.location, write, seconds)
        except (LimitExceededError, ReaderCrashedError) as error:  # after others the next run needs the copy
            answer = error
        if copy.is_relative_to(copy_folder):
            shutil.rmtree(copy.parent)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def extract_query(self, origin: Origin, root: Path, environ: Mapping[str, str]) -> Path:
        """Return the extract of a query without a cursor, which runs each time.

        Raises:
            SourceError: if the database cannot be reached or refuses the query.
        """
        path = self.scratch / "query.parquet"
        write_items(path, partial(sql_rows.read, root, origin, environ), origin, self.forgotten)
        return path

    def extract_feedback(self, reviews: Sequence[Review], origin: Origin, hash_text: Callable[[str], str]) -> Path:
        """Return the extract of feedback that may train."""
        path = self.scratch / "feedback.parquet"
        write_items(path, partial(feedback_rows.read, reviews, origin, hash_text), origin, self.forgotten)
        return path

    def extract_table(self, origin: Origin, root: Path, environ: Mapping[str, str]) -> tuple[list[Path], int]:
        """Return the extracts of all rows before the end of the interval, oldest first, and the number of new ones.

        Raises:
            SourceError: if the database cannot be reached or refuses the query.
        """
        end = date.fromisoformat(origin.interval) + timedelta(days=1)
        settled = min(end, intervals.get_today() - SETTLING_TIME)
        folder = self.cache / _compute_key(
            origin.source, sql_rows.__name__, origin.location, _get_database_url(origin, environ)
        )
        with hold_lock(folder):
            periods = _chain_periods([_parse_period(path) for path in folder.glob("[!.]*.parquet")], end)
            paths = [folder / f"{first}_{last}.parquet" for first, last in periods]
            for path in paths:
                os.utime(path)
            covered = periods[-1][1] if periods else date.min
            for last, target in ((settled, folder), (end, self.scratch)):
                if covered < last:
                    period = KeyedOrigin(origin.source, origin.location, (last - timedelta(days=1)).isoformat())
                    after = covered if covered > date.min else None
                    paths.append(target / f"{covered}_{last}.parquet")
                    read_rows = partial(sql_rows.read, root, period, environ, after)
                    write_items(paths[-1], read_rows, period, self.forgotten)
                    covered = last
        return paths, len(paths) - len(periods)


def merge_periods(periods: Sequence[Path], scratch: Path) -> Iterator[pa.RecordBatch]:
    """Return the rows of consecutive periods: the newest of each key, in the order of their keys.

    The result does not depend on the periods' boundaries. All malformed rows are kept, because none is a newer version
    of another. A forgotten row stays forgotten in its newer versions. Rows that do not fit into memory are sorted in
    `scratch`.
    """
    import duckdb

    query = """
        SELECT * FROM (
            SELECT *, list_position($files, filename) AS number FROM read_parquet(
                $patterns, filename = true, file_row_number = true, hive_partitioning = false))
        QUALIFY rule = 'malformed' OR row_number() OVER (
            PARTITION BY id, rule = 'malformed'
            ORDER BY rule = 'forgotten' DESC, number DESC, file_row_number DESC) = 1
        ORDER BY position, number, file_row_number
    """
    with duckdb.connect(config={"temp_directory": str(scratch)}) as database:
        files = [str(path) for path in periods]
        result = database.execute(query, {"files": files, "patterns": list(map(glob.escape, files))})
        batches: pa.RecordBatchReader = result.to_arrow_reader(ARROW_BATCH)
        yield from batches


def _measure_size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def _parse_period(path: Path) -> Period:
    first, _, last = path.stem.partition("_")
    return date.fromisoformat(first), date.fromisoformat(last)


def _chain_periods(known: Iterable[Period], end: date) -> list[Period]:
    """Return consecutive periods without a gap from the first row on. They end as late as possible, but by `end`."""
    reached: dict[date, list[Period]] = {date.min: []}
    for first, last in sorted(known, key=lambda period: (period[1], period[0])):
        if first in reached and last <= end:
            reached.setdefault(last, [*reached[first], (first, last)])
    return reached[max(reached)]


def _get_database_url(origin: Origin, environ: Mapping[str, str]) -> str:
    """Return the database's URL with its ${VAR} replaced (they may select another database), without password."""
    try:
        url = sa.make_url(expand_variables(origin.location, environ)[0])
    except sa.exc.ArgumentError:  # reported by the reader
        return ""
    return url.set(password=None, query={}).render_as_string()


def _compute_key(source: Source, reader: str, *parts: str) -> str:
    settings = {k: v for k, v in source.get_hashed_values().items() if k not in ("location", "connection")}
    return make_content_id(json.dumps(settings, sort_keys=True), compute_code_version(reader), *parts)
