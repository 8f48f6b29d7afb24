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
from llmops.data.remote import Address, connect, is_remote, make_local_address
from llmops.frame.artifacts import link_or_copy
from llmops.frame.errors import LlmopsError
from llmops.frame.variables import VARIABLE

REPORT_COLUMNS = "number long, name string, ends binary, row_counts binary"  #: of `TableFile.make_report`
_SECRET_PREFIXES = ("AWS_", "AZURE_STORAGE_", "CONNECTION_")  #: prefixes of a connection's variables


class WorkError(LlmopsError):
    """A work file is missing or damaged, or a machine cannot reach the work files."""


@dataclass(frozen=True, slots=True)
class WorkFiles:
    """The folder or object store of the work files. Workers get this object inside the function that they run."""

    #: a folder, or a URL of `llmops.data.remote`
    location: str
    #: variables from an Airflow connection, which only the driver can read; None: each machine has its own credentials
    variables: tuple[tuple[str, str], ...] | None = field(default=None, repr=False)

    @classmethod
    def make(cls, location: str, connection: str = "") -> WorkFiles:
        """Return the work files at a location, with the variables of the Airflow connection.

        Raises:
            SourceError: if Airflow does not know the connection.
        """
        if not connection:
            return cls(location)
        environ, named = credentials.read_environment(connection), set(VARIABLE.findall(location))
        return cls(location, tuple((n, v) for n, v in environ.items() if n.startswith(_SECRET_PREFIXES) or n in named))

    @property
    def remote(self) -> bool:
        """Return True if the work files are in an object store."""
        return is_remote(self.location)

    def get_address(self, name: str = "") -> Address:
        """Return the address of a file, or of the folder.

        Raises:
            SourceError: if a credential is missing.
        """
        folder = _connect(self.location, self.variables) if self.remote else make_local_address(self.location)
        path = f"{folder.path.rstrip('/')}/{name}".rstrip("/")
        return Address(f"{folder.location}/{name}".rstrip("/"), path, folder.filesystem, folder.secrets)

    def add_file(self, source: Path, name: str) -> None:
        """Add a file of the driver, so that workers can read it: as a link if possible, else as a copy.

        Raises:
            WorkError: if there is no such bucket or container.
        """
        address = self.get_address(name)
        if self.remote:
            _upload(source, address)
        else:
            Path(address.path).parent.mkdir(parents=True, exist_ok=True)
            link_or_copy(source, address.path)

    def move_out(self, name: str, target: Path) -> None:
        """Move a file out of the work files, to `target` on this machine. A file in an object store is only copied.

        Raises:
            WorkError: if it does not exist.
        """
        address = self.get_address(name)
        try:
            if self.remote:
                address.retry(lambda: address.filesystem.get_file(address.path, str(target)))
            else:
                shutil.move(address.path, target)
        except FileNotFoundError:
            raise WorkError(_describe_missing(address)) from None

    @contextmanager
    def create_file(self, name: str) -> Iterator[Path]:
        """Yield the path of a local file to write; afterwards it becomes `name`, atomically.

        Each attempt has its own file, because Spark may run two attempts of a task at once.
        """
        address, task = self.get_address(name), TaskContext.get()
        if self.remote:
            with make_temporary_folder() as folder:
                yield (copy := folder / "file")
                _upload(copy, address)
            return
        path = Path(address.path)
        path.parent.mkdir(parents=True, exist_ok=True)
        copy = path.with_name(f".{path.name}.{task.taskAttemptId() if task else os.getpid()}")
        yield copy
        copy.replace(path)

    def read_row_group(self, name: str, number: int, columns: list[str]) -> pa.Table:
        """Return a row group of a Parquet file.

        Raises:
            WorkError: if it is missing or damaged.
        """
        address = self.get_address(name)
        with _convert_errors(address), ExitStack() as stack:
            source: Any = address.path
            if self.remote:
                source = address.retry(lambda: address.filesystem.open(address.path, "rb", cache_type="none"))
                stack.enter_context(source)
            file = stack.enter_context(pq.ParquetFile(source, pre_buffer=self.remote))
            read = partial(file.read_row_group, number, columns=columns, use_threads=False)
            return address.retry(read) if self.remote else read()

    def clear(self) -> None:
        """Remove the folder with its content, including leftovers of killed runs."""
        address = self.get_address()
        if not self.remote:
            shutil.rmtree(address.path, ignore_errors=True)
        elif address.retry(lambda: address.filesystem.exists(address.path)):
            address.retry(lambda: address.filesystem.rm(address.path, recursive=True))


class TableFile(NamedTuple):
    """A work file of several tables, each of which can be read alone.

    One task writes such a file, and each later task reads its own table from it.
    """

    name: str
    ends: NDArray[np.int64]  #: offset of each table's end, after a 0
    row_counts: NDArray[np.int64]  #: number of rows of each table

    @classmethod
    def write(cls, work_files: WorkFiles, name: str, tables: Iterable[pl.DataFrame | pa.Table]) -> TableFile:
        """Write a file. Each table is an uncompressed Arrow stream."""
        ends, row_counts = [0], []
        with work_files.create_file(name) as path, path.open("wb") as file:
            for table in tables:
                if isinstance(table, pl.DataFrame):
                    table.write_ipc_stream(file, compression="uncompressed")
                else:
                    with pa.ipc.new_stream(file, table.schema) as stream:
                        stream.write_table(table)
                ends.append(file.tell())
                row_counts.append(len(table))
        return cls(name, np.array(ends), np.array(row_counts, np.int64))

    @classmethod
    def collect_files(cls, reports: DataFrame) -> dict[int, TableFile]:
        """Run the tasks that write files. Return number of the part or output file → file, from their `make_report`."""
        return {
            row.number: cls(row.name, np.frombuffer(row.ends, np.int64), np.frombuffer(row.row_counts, np.int64))
            for row in reports.collect()
        }

    def make_report(self, number: int) -> pa.RecordBatch:
        """Return a task's report about this file, with the `number` of its part or output file, in `REPORT_COLUMNS`."""
        return pa.RecordBatch.from_pydict(
            {
                "number": [number],
                "name": [self.name],
                "ends": [self.ends.tobytes()],
                "row_counts": [self.row_counts.tobytes()],
            }
        )

    def read_table(self, work_files: WorkFiles, number: int) -> pa.Table:
        """Return one table. In a folder it is memory-mapped, so that only used columns and rows are read.

        Raises:
            WorkError: if the file is missing or truncated.
        """
        start, end = map(int, self.ends[number : number + 2])
        address = work_files.get_address(self.name)
        with _convert_errors(address):
            if work_files.remote:
                data = pa.py_buffer(
                    address.retry(lambda: address.filesystem.cat_file(address.path, start=start, end=end))
                )
            else:
                with pa.memory_map(address.path) as file:
                    file.seek(min(start, file.size()))
                    data = file.read_buffer(end - start)
            table = pa.ipc.open_stream(data).read_all() if len(data) == end - start else None
        if table is None or len(table) != self.row_counts[number]:
            raise WorkError(f"{address.location} is damaged: {len(data)} of {end - start} bytes at {start}. Run again.")
        return table


@contextmanager
def _convert_errors(address: Address) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise WorkError(_describe_missing(address)) from None
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())
        raise WorkError(f"{address.location} is damaged or cannot be read ({reason}). Run again.") from error


def _upload(source: Path, address: Address) -> None:
    try:
        address.retry(lambda: address.filesystem.put_file(str(source), address.path))
    except FileNotFoundError as error:
        raise WorkError(
            f"{address.location} cannot be written: {address.hide_secrets(str(error))}. The bucket or container that "
            "`clean.work` names must be there: make it."
        ) from None


def _describe_missing(address: Address) -> str:
    return (
        f"{address.location} was written and is not there. All machines must reach the same files at `clean.work`, "
        "and nobody may delete them while it runs."
    )


@contextmanager
def make_temporary_folder() -> Iterator[Path]:
    """Yield a temporary local folder. On a worker it is inside Spark's own."""
    spark_folder = os.environ.get("SPARK_LOCAL_DIRS", "").split(",")[0]
    with tempfile.TemporaryDirectory(
        prefix="llmops-", dir=spark_folder if Path(spark_folder).is_dir() else None
    ) as folder:
        yield Path(folder)


@cache
def _connect(location: str, variables: tuple[tuple[str, str], ...] | None) -> Address:
    if variables is None:
        return connect(location, os.environ)
    machine_variables = {name: value for name, value in os.environ.items() if not name.startswith(_SECRET_PREFIXES)}
    return connect(location, {**machine_variables, **dict(variables)})


def check_shared(spark: SparkSession, work_files: WorkFiles) -> None:
    """Check that the workers see the driver's files, before any work.

    Raises:
        WorkError: naming the hosts that do not.
    """
    token = os.urandom(16).hex()
    with make_temporary_folder() as folder:
        (folder / "probe").write_text(token)
        work_files.add_file(folder / "probe", "probe")

    def read_probe(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        list(batches)
        address, problem = work_files.get_address("probe"), ""
        try:
            if address.retry(lambda: address.filesystem.cat_file(address.path)).decode() != token:
                problem = "it holds another file of that name"
        except (OSError, LlmopsError) as error:
            problem = f"{type(error).__name__}: {error}"
        yield pa.RecordBatch.from_pydict({"host": [socket.gethostname()], "problem": [problem]})

    tasks = 2 * spark.sparkContext.defaultParallelism
    reports = spark.range(0, tasks, 1, tasks).mapInArrow(read_probe, "host string, problem string").collect()
    problems = sorted({f"{row.host}: {row.problem}" for row in reports if row.problem})
    if problems:
        raise WorkError(
            f"The workers do not see what the driver writes to {work_files.location}; let `clean.work` be a folder "
            "that all hosts share, or a place in an object store that they have the credentials for. "
            f"{'; '.join(problems)}"
        )
