"""Take a person's rows out of the repository that collect puts the documents in."""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from llmops.artifacts import read_record
from llmops.config import Config
from llmops.data.collect import repository
from llmops.data.credentials import environment
from llmops.data.remote import Address, connect, is_remote, local
from llmops.erasure.subject import Subject
from llmops.erasure.trace import Found, Known, matching_rows

Parts = dict[str, dict[str, list[int]]]  #: interval → name of a part → numbers of the rows that go, from 0


def find(config: Config, subject: Subject, found: Found) -> Parts:
    """The person's rows in the repository, if there is one.

    Raises:
        SourceError: if it cannot be reached.
    """
    if not config.collect.repository:
        return {}
    known: defaultdict[str, Known] = defaultdict(Known)
    for ref in (ref for ref in found.known if ref.startswith("collect/")):
        known[read_record(config.artifacts / ref).interval] |= found.known[ref]
    address = _address(config)
    hits: Parts = {}
    for interval in _intervals(address):
        for name, data in _parts(address, interval):
            if numbers := [row.number for row in matching_rows(pa.BufferReader(data), subject, known[interval])]:
                hits.setdefault(interval, {})[name] = numbers
    return hits


def erase(config: Config, rows: Parts) -> None:
    """Upload the partitions again without those rows; what is there already is not sent (see `repository.upload`).

    Raises:
        RepositoryError: if the repository does not take them.
        SourceError: if it cannot be reached.
    """
    if not rows:
        return
    address = _address(config)
    for interval, parts in rows.items():
        with tempfile.TemporaryDirectory(dir=config.home, prefix=".erasure-") as folder:
            documents = Path(folder) / "documents.parquet"
            if _write(documents, _parts(address, interval), parts):
                repository.upload(documents, _location(config), interval, environment(config.collect.connection))


def _write(documents: Path, parts: Iterator[tuple[str, bytes]], gone: Mapping[str, list[int]]) -> bool:
    """Write the rows that stay, a row group for each part as `upload` makes them; returns whether there are parts."""
    writer: pq.ParquetWriter | None = None
    for name, data in parts:
        table = pq.read_table(pa.BufferReader(data))
        kept = np.ones(table.num_rows, bool)
        kept[gone.get(name, [])] = False
        writer = writer or pq.ParquetWriter(documents, table.schema, compression="zstd")
        if kept.any():
            writer.write_table(table.filter(pa.array(kept)), row_group_size=table.num_rows)
    if writer:
        writer.close()
    return writer is not None


def _location(config: Config) -> str:
    where = config.collect.repository
    return where if is_remote(where) else str(config.collect.root / where)


def _address(config: Config) -> Address:
    where = f"{_location(config).rstrip('/')}/documents"
    return connect(where, environment(config.collect.connection)) if is_remote(where) else local(where)


def _intervals(address: Address) -> list[str]:
    try:
        names: list[str] = address.ask(lambda: address.filesystem.ls(address.path, detail=False))
    except FileNotFoundError:
        return []
    found = (name.rstrip("/").rpartition("/")[2].partition("interval=") for name in names)
    return sorted(interval for before, word, interval in found if word and not before)


def _parts(address: Address, interval: str) -> Iterator[tuple[str, bytes]]:
    """Name and content of the parts that the partition's manifest names."""
    folder = f"{address.path.rstrip('/')}/interval={interval}"

    def read(name: str) -> bytes:
        data: bytes = address.ask(lambda: address.filesystem.cat_file(f"{folder}/{name}"))
        return data

    try:
        manifest: dict[str, Any] = json.loads(read(repository.MANIFEST))
    except FileNotFoundError:  # not whole: the next run of collect sends it again and removes what is there
        return
    for part in manifest["parts"]:
        yield part["name"], read(part["name"])
