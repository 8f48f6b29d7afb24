"""The repository: the documents of every interval as Parquet in a folder, S3 or Azure Blob, for other users.

    {repository}/documents/interval=2026-01-31/part-00000-3f2a….parquet …  _manifest.json

Spark, DuckDB and pyarrow read the folder as a table partitioned by interval. A part is one row group, named by its
number and content. The manifest with the SHA-256 of each part is written last: a partition with one is complete. A
repeated upload sends only missing parts, so an interrupted upload continues.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from llmops.data.remote import connect, get_md5, is_remote, make_local_address
from llmops.frame.artifacts import write_atomically
from llmops.frame.errors import LlmopsError, SourceError, TransientError

log = logging.getLogger(__name__)

MANIFEST = "_manifest.json"
_PART = re.compile(r"part-\d{5}-[0-9a-f]{16}\.parquet")
_LEFTOVER = re.compile(rf"\.({_PART.pattern}|{re.escape(MANIFEST)})\.\d+")  #: leftover of a killed upload into a folder


class RepositoryError(LlmopsError):
    """The repository refuses an upload."""


class RepositoryUnavailableError(RepositoryError, TransientError):
    """The repository cannot be reached, or an uploaded file is not as it was sent."""


def upload_documents(
    documents: Path, repository: str, interval: str, environ: Mapping[str, str] = os.environ
) -> Mapping[str, Any]:
    """Replace the repository's partition of `interval` by the rows of `documents`.

    Returns:
        The number of `parts`, their `bytes`, and the number `sent` now.

    Raises:
        RepositoryError: naming the address and the store's message.
    """
    location = f"{repository.rstrip('/')}/documents/interval={interval}"
    try:
        partition = _Partition(location, environ)
        try:
            return _upload_parts(documents, partition, interval)
        except OSError as error:
            raise RepositoryUnavailableError(f"Repository {partition.shown}: {error}") from None
    except SourceError as error:
        kind = RepositoryUnavailableError if isinstance(error, TransientError) else RepositoryError
        raise kind(f"Repository: {error}") from None


def list_intervals(repository: str, environ: Mapping[str, str] = os.environ) -> list[str]:
    """Return the intervals of the repository's partitions. Raises the errors of `read_parts`."""
    names = _Partition(f"{repository.rstrip('/')}/documents", environ).list_names()
    return sorted(name.removeprefix("interval=") for name in names if name.startswith("interval="))


def read_parts(repository: str, interval: str, environ: Mapping[str, str] = os.environ) -> list[bytes]:
    """Return the parts of a partition, each a Parquet file; empty if the partition is incomplete.

    Raises:
        SourceError: if the repository cannot be reached.
    """
    partition = _Partition(f"{repository.rstrip('/')}/documents/interval={interval}", environ)
    if MANIFEST not in partition.list_names():
        return []
    return [partition.read_file(part["name"]) for part in json.loads(partition.read_file(MANIFEST))["parts"]]


def delete_leftovers(repository: str, interval: str, environ: Mapping[str, str] = os.environ) -> None:
    """Delete parts of a partition that its manifest does not name, left by killed uploads.

    Raises:
        SourceError: if the repository cannot be reached.
    """
    partition = _Partition(f"{repository.rstrip('/')}/documents/interval={interval}", environ)
    existing = partition.list_names()
    listed_parts = json.loads(partition.read_file(MANIFEST))["parts"] if MANIFEST in existing else []
    _delete_parts(partition, existing - {part["name"] for part in listed_parts})


def _delete_parts(partition: _Partition, names: set[str]) -> None:
    for name in names:
        if _PART.fullmatch(name) or _LEFTOVER.fullmatch(name):
            partition.delete_file(name)


def _upload_parts(documents: Path, partition: _Partition, interval: str) -> Mapping[str, Any]:
    existing, parts, sent = partition.list_names(), [], 0
    with pq.ParquetFile(documents) as file:
        for number in range(file.num_row_groups):
            table = file.read_row_group(number)
            data = _encode_parquet(table)
            digest = hashlib.sha256(data).hexdigest()
            name = f"part-{number:05d}-{digest[:16]}.parquet"
            parts.append({"name": name, "rows": table.num_rows, "bytes": len(data), "sha256": digest})
            if name not in existing or not partition.has_content(name, data):
                partition.write_file(name, data)
                sent += 1
    manifest = json.dumps(
        {"interval": interval, "rows": sum(p["rows"] for p in parts), "parts": parts}, indent=1
    ).encode()
    if MANIFEST not in existing or not partition.has_content(MANIFEST, manifest):
        partition.write_file(MANIFEST, manifest)
    _delete_parts(partition, existing - {part["name"] for part in parts})
    size = sum(part["bytes"] for part in parts)
    log.info("repository: %d of %d parts sent to %s", sent, len(parts), partition.shown)
    return {"parts": len(parts), "bytes": size, "sent": sent}


def _encode_parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", row_group_size=table.num_rows)
    return bytes(sink.getvalue())


class _Partition:
    def __init__(self, location: str, environ: Mapping[str, str]) -> None:
        self._remote = is_remote(location)
        self._address = connect(location, environ) if self._remote else make_local_address(location)
        self.shown = self._address.location

    def list_names(self) -> set[str]:
        """Return the names of the partition's files."""
        try:
            paths = self._call(lambda files, folder: files.ls(folder, detail=False))
        except FileNotFoundError:
            return set()
        return {path.rstrip("/").rpartition("/")[2] for path in paths}

    def has_content(self, name: str, data: bytes) -> bool:
        """Return True if the file has this content, by the store's MD5 or by reading it."""
        info = self._call(lambda files, folder: files.info(f"{folder}/{name}"))
        if info["size"] != len(data):
            return False
        md5s = (get_md5(info), str(info.get("ETag", "")).strip('"'))
        if hashlib.md5(data, usedforsecurity=False).hexdigest() in md5s:
            return True
        return self.read_file(name) == data

    def read_file(self, name: str) -> bytes:
        """Return the content of a file."""
        return bytes(self._call(lambda files, folder: files.cat_file(f"{folder}/{name}")))

    def write_file(self, name: str, data: bytes) -> None:
        """Write a file atomically, and check that the store has it as it was sent."""
        if self._remote:
            self._call(lambda files, folder: files.pipe_file(f"{folder}/{name}", data))
        else:
            folder = Path(self._address.path)
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically(folder / name, data)
        if not self.has_content(name, data):
            raise RepositoryUnavailableError(
                f"{self.shown}/{name} is not what was sent; run again, and look at the store's logs."
            )

    def delete_file(self, name: str) -> None:
        """Delete a file."""
        self._call(lambda files, folder: files.rm_file(f"{folder}/{name}"))

    def _call(self, call: Callable[[Any, str], Any]) -> Any:
        return self._address.retry(lambda: call(self._address.filesystem, self._address.path.rstrip("/")))
