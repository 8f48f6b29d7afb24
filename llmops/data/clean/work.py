"""The work files of a cleaning, in a folder or object store that the driver and all workers can reach.

No file is searched for: the driver names each file, by the reports of the tasks that wrote them. A missing or truncated
file is an error with its name.
"""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyspark import TaskContext
from pyspark.sql import DataFrame, SparkSession

from llmops.data import credentials
from llmops.data.remote import Address, connect, is_remote, local
from llmops.frame.artifacts import link
from llmops.frame.errors import LlmopsError
from llmops.frame.variables import VARIABLE

TOLD = "number long, name string, ends binary, rows binary"
_SECRET = ("AWS_", "AZURE_STORAGE_", "CONNECTION_")  #: prefixes of a connection's variables


class WorkError(LlmopsError):
    """A work file is missing or damaged, or a machine cannot reach the work files."""


@dataclass(frozen=True, slots=True)
class Work:
    """The place of the work files. Workers get it inside the function that they run."""

    location: str  #: a folder, or a URL of `llmops.data.remote`
    sent: tuple[tuple[str, str], ...] | None = field(default=None, repr=False)
    #: variables from an Airflow connection, which only the driver can read; None: each machine has its own credentials

    @classmethod
    def at(cls, location: str, connection: str = "") -> Work:
        """Return the place, with the variables of the Airflow connection.

        Raises:
            SourceError: if Airflow does not know the connection.
        """
        if not connection:
            return cls(location)
        environ, named = credentials.environment(connection), set(VARIABLE.findall(location))
        return cls(location, tuple((n, v) for n, v in environ.items() if n.startswith(_SECRET) or n in named))

    @property
    def remote(self) -> bool:
        """Return True if the place is in an object store."""
        return is_remote(self.location)

    def address(self, name: str = "") -> Address:
        """Return the address of a file, or of the folder.

        Raises:
            SourceError: if a credential is missing.
        """
        folder = _connected(self.location, self.sent) if self.remote else local(self.location)
        path = f"{folder.path.rstrip('/')}/{name}".rstrip("/")
        return Address(f"{folder.shown}/{name}".rstrip("/"), path, folder.filesystem, folder.secrets)

    def take(self, source: Path, name: str) -> None:
        """Give the workers a file of the driver: as a link if possible, else as a copy.

        Raises:
            WorkError: if there is no such bucket or container.
        """
        where = self.address(name)
        if self.remote:
            _put(source, where)
        else:
            Path(where.path).parent.mkdir(parents=True, exist_ok=True)
            link(source, where.path)

    def fetch(self, name: str, target: Path) -> None:
        """Bring a file to this machine. On the same disk it is moved.

        Raises:
            WorkError: if it does not exist.
        """
        where = self.address(name)
        try:
            if self.remote:
                where.ask(lambda: where.filesystem.get_file(where.path, str(target)))
            else:
                shutil.move(where.path, target)
        except FileNotFoundError:
            raise WorkError(_missing(where)) from None

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """Yield a local file to write to; afterwards it becomes `name`, atomically.

        Each attempt has its own file, because Spark may run two attempts of a task at once.
        """
        where, task = self.address(name), TaskContext.get()
        if self.remote:
            with scratch() as folder:
                yield (copy := folder / "file")
                _put(copy, where)
            return
        path = Path(where.path)
        path.parent.mkdir(parents=True, exist_ok=True)
        copy = path.with_name(f".{path.name}.{task.taskAttemptId() if task else os.getpid()}")
        yield copy
        copy.replace(path)

    def read_row_groups(self, name: str, numbers: Iterable[int], columns: list[str]) -> Iterator[pa.Table]:
        """Yield row groups of a Parquet file, one by one.

        Raises:
            WorkError: if it is missing or damaged.
        """
        where = self.address(name)
        with _as_work_error(where), ExitStack() as stack:
            source: Any = where.path
            if self.remote:
                source = where.ask(lambda: where.filesystem.open(where.path, "rb", cache_type="none"))
                stack.enter_context(source)
            file = stack.enter_context(pq.ParquetFile(source, pre_buffer=self.remote))
            for number in numbers:
                read = partial(file.read_row_group, number, columns=columns, use_threads=False)
                yield where.ask(read) if self.remote else read()

    def clear(self) -> None:
        """Remove the folder with its content, including leftovers of killed runs."""
        where = self.address()
        if not self.remote:
            shutil.rmtree(where.path, ignore_errors=True)
        elif where.ask(lambda: where.filesystem.exists(where.path)):
            where.ask(lambda: where.filesystem.rm(where.path, recursive=True))


class Cut(NamedTuple):
    """A file of consecutive tables, each of which can be read alone."""

    name: str
    ends: NDArray[np.int64]  #: offset of each table's end
    rows: NDArray[np.int64]  #: number of rows of each table

    @classmethod
    def written(cls, work: Work, name: str, tables: Iterable[pl.DataFrame | pa.Table]) -> Cut:
        """Write a file. Each table is an uncompressed Arrow stream."""
        ends, rows = [0], []
        with work.writing(name) as path, path.open("wb") as file:
            for table in tables:
                if isinstance(table, pl.DataFrame):
                    table.write_ipc_stream(file, compression="uncompressed")
                else:
                    with pa.ipc.new_stream(file, table.schema) as stream:
                        stream.write_table(table)
                ends.append(file.tell())
                rows.append(len(table))
        return cls(name, np.array(ends), np.array(rows, np.int64))

    @classmethod
    def collected(cls, tasks: DataFrame) -> dict[int, Cut]:
        """Return number → file, from the reports of the tasks that wrote them."""
        return {
            row.number: cls(row.name, np.frombuffer(row.ends, np.int64), np.frombuffer(row.rows, np.int64))
            for row in tasks.collect()
        }

    def told(self, number: int) -> pa.RecordBatch:
        """Return a task's report to the driver about the file that it wrote, in the columns `TOLD`."""
        return pa.RecordBatch.from_pydict(
            {"number": [number], "name": [self.name], "ends": [self.ends.tobytes()], "rows": [self.rows.tobytes()]}
        )

    def read(self, work: Work, number: int) -> pa.Table:
        """Return one table. In a folder it is memory-mapped, so that only used columns and rows are read.

        Raises:
            WorkError: if the file is missing or truncated.
        """
        start, end = map(int, self.ends[number : number + 2])
        where = work.address(self.name)
        with _as_work_error(where):
            if work.remote:
                data = pa.py_buffer(where.ask(lambda: where.filesystem.cat_file(where.path, start=start, end=end)))
            else:
                with pa.memory_map(where.path) as file:
                    file.seek(min(start, file.size()))
                    data = file.read_buffer(end - start)
            table = pa.ipc.open_stream(data).read_all() if len(data) == end - start else None
        if table is None or len(table) != self.rows[number]:
            raise WorkError(f"{where.shown} is damaged: {len(data)} of {end - start} bytes at {start}. Run again.")
        return table


@contextmanager
def _as_work_error(where: Address) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise WorkError(_missing(where)) from None
    except (pa.ArrowException, OSError) as error:
        said = " ".join(str(error).split())
        raise WorkError(f"{where.shown} is damaged or cannot be read ({said}). Run again.") from error


def _put(source: Path, where: Address) -> None:
    try:
        where.ask(lambda: where.filesystem.put_file(str(source), where.path))
    except FileNotFoundError as error:
        raise WorkError(
            f"{where.shown} cannot be written: {where.hide(str(error))}. The bucket or container that "
            "`clean.work` names must be there: make it."
        ) from None


def _missing(where: Address) -> str:
    return (
        f"{where.shown} was written and is not there. All machines must reach the same files at `clean.work`, "
        "and nobody may delete them while it runs."
    )


@contextmanager
def scratch() -> Iterator[Path]:
    """Yield a temporary local folder; on a worker, in Spark's own."""
    there = os.environ.get("SPARK_LOCAL_DIRS", "").split(",")[0]
    with tempfile.TemporaryDirectory(prefix="llmops-", dir=there if Path(there).is_dir() else None) as folder:
        yield Path(folder)


def mapped(table: pl.DataFrame, path: Path) -> pl.DataFrame:
    """Return the same table, written to a file and memory-mapped."""
    table.write_ipc(path, compression="uncompressed")
    return pl.DataFrame(pl.from_arrow(pa.ipc.open_file(pa.memory_map(str(path))).read_all()))


@cache
def _connected(location: str, sent: tuple[tuple[str, str], ...] | None) -> Address:
    if sent is None:
        return connect(location, os.environ)
    own = {name: value for name, value in os.environ.items() if not name.startswith(_SECRET)}
    return connect(location, {**own, **dict(sent)})


def check_shared(spark: SparkSession, work: Work) -> None:
    """Check that the workers see the driver's files, before any work.

    Raises:
        WorkError: naming the hosts that do not.
    """
    token = os.urandom(16).hex()
    with scratch() as folder:
        (folder / "probe").write_text(token)
        work.take(folder / "probe", "probe")

    def look(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        list(batches)
        where, problem = work.address("probe"), ""
        try:
            if where.ask(lambda: where.filesystem.cat_file(where.path)).decode() != token:
                problem = "it holds another file of that name"
        except (OSError, LlmopsError) as error:
            problem = f"{type(error).__name__}: {error}"
        yield pa.RecordBatch.from_pydict({"host": [socket.gethostname()], "problem": [problem]})

    tasks = 2 * spark.sparkContext.defaultParallelism
    told = spark.range(0, tasks, 1, tasks).mapInArrow(look, "host string, problem string").collect()
    problems = sorted({f"{row.host}: {row.problem}" for row in told if row.problem})
    if problems:
        raise WorkError(
            f"The workers do not see what the driver writes to {work.location}; let `clean.work` be a folder that all "
            f"hosts share, or a place in an object store that they have the credentials for. {'; '.join(problems)}"
        )
