"""The repository without a person's rows: in a folder, S3 and Azure Blob, also after a break."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmops.config import Config
from llmops.data.collect import repository
from llmops.data.remote import Address, connect, local
from llmops.erasure import partitions
from llmops.erasure.subject import Subject
from llmops.erasure.trace import Found
from llmops.records import Document, schema

MAIL = "ana@example.org"
DAYS = ("2026-01-30", "2026-01-31")


@pytest.fixture(params=["folder", "s3", pytest.param("azure", marks=pytest.mark.service)])
def config(request: pytest.FixtureRequest, tmp_path: Path) -> Config:
    """With a repository of two intervals of three parts each; the person is in two parts of the last."""
    where = str(tmp_path / "repository") if request.param == "folder" else request.getfixturevalue(request.param)
    documents = tmp_path / "documents.parquet"
    for day in DAYS:
        with pq.ParquetWriter(documents, schema(Document)) as writer:
            for part in range(3):
                names = [
                    MAIL if day == DAYS[1] and part < 2 and row == part else f"text {part} {row}" for row in (0, 1)
                ]
                rows = [
                    {**dict.fromkeys(writer.schema.names, ""), "text": name} for name in names[: 1 if part == 0 else 2]
                ]
                writer.write_table(pa.Table.from_pylist(rows, schema=writer.schema))
        repository.upload(documents, where, day)
    return Config(home=tmp_path / "home", collect={"repository": where})


def reach(config: Config) -> Address:
    where = config.collect.repository
    return connect(where, os.environ) if "://" in where else local(where)


def files(config: Config) -> dict[str, bytes]:
    address = reach(config)
    return {
        p.rpartition("documents/")[2]: address.filesystem.cat_file(p) for p in address.filesystem.find(address.path)
    }


def texts(config: Config, day: str) -> list[str]:
    parts = sorted(n for n in files(config) if day in n and n.endswith(".parquet"))
    return [t for name in parts for t in pq.read_table(pa.BufferReader(files(config)[name]))["text"].to_pylist()]


def test_the_rows_go_and_all_else_stays(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    config.home.mkdir()
    before = files(config)
    rows = partitions.find(config, Subject(MAIL), Found())
    assert list(rows) == [DAYS[1]] and sorted(rows[DAYS[1]].values()) == [[0], [1]]

    def dying(self: repository._Partition, name: str) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(repository._Partition, "remove", dying)
        partitions.erase(config, rows)
    partitions.erase(config, rows)
    assert texts(config, DAYS[1]) == ["text 1 0", "text 2 0", "text 2 1"]
    after = files(config)
    assert {n: d for n, d in after.items() if DAYS[0] in n} == {n: d for n, d in before.items() if DAYS[0] in n}
    assert partitions.find(config, Subject(MAIL), Found()) == {}
    partitions.erase(config, rows)
    assert files(config) == after
