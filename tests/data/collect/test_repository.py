"""repository: uploads are complete, checked, and not repeated after an interruption; to a folder, S3 and Azure Blob."""

import hashlib
import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmops.data.collect import repository
from llmops.data.collect.repository import MANIFEST, RepositoryError, upload_documents
from llmops.data.remote import Address, connect, make_local_address

DAY = "2026-01-31"


def write_documents(path: Path, *groups: str) -> Path:
    """Write a Parquet file with one row group for each of `groups`, each letter of which is a row."""
    schema = pa.schema([("text", pa.string())])
    with pq.ParquetWriter(path, schema) as writer:
        for group in groups:
            writer.write_table(pa.table({"text": list(group)}, schema=schema))
    return path


@pytest.fixture(params=["folder", "s3", pytest.param("azure", marks=pytest.mark.service)])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "repository") if request.param == "folder" else request.getfixturevalue(request.param)


@cache
def open_address(target: str) -> Address:
    return connect(target, os.environ) if "://" in target else make_local_address(target)


def read_stored(target: str) -> dict[str, bytes]:
    where = open_address(target)
    found: dict[str, bytes] = {}
    for path in where.filesystem.find(where.path):
        found[path.removeprefix(where.path).strip("/")] = where.filesystem.cat_file(path)
    return found


def read_texts(target: str) -> list[str]:
    """Return the texts that a reader without knowledge of manifests finds, in order."""
    files = sorted((name, data) for name, data in read_stored(target).items() if name.endswith(".parquet"))
    return [t for _, data in files for t in pq.read_table(pa.BufferReader(data))["text"].to_pylist()]


def test_upload_is_whole_checked_and_once(target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_documents(tmp_path / "d.parquet", "ab", "c")
    done = upload_documents(file, target, DAY)
    assert (done["parts"], done["sent"]) == (2, 2)
    assert read_texts(target) == ["a", "b", "c"]
    files = read_stored(target)
    folder = f"documents/interval={DAY}"
    manifest = json.loads(files[f"{folder}/{MANIFEST}"])
    assert (manifest["interval"], manifest["rows"], [p["rows"] for p in manifest["parts"]]) == (DAY, 3, [2, 1])
    assert set(files) == {f"{folder}/{MANIFEST}", *(f"{folder}/{p['name']}" for p in manifest["parts"])}
    for part in manifest["parts"]:
        data = files[f"{folder}/{part['name']}"]
        assert (part["sha256"], part["bytes"]) == (hashlib.sha256(data).hexdigest(), len(data))
    monkeypatch.setattr(repository._Partition, "write_file", lambda *_: pytest.fail("sent again"))
    assert upload_documents(file, target, DAY)["sent"] == 0
    assert read_stored(target) == files


def test_intervals_stand_side_by_side_and_one_is_replaced_by_its_own_only(target: str, tmp_path: Path) -> None:
    upload_documents(write_documents(tmp_path / "a", "a", "b"), target, "2026-01-30")
    where = open_address(target)
    where.filesystem.pipe_file(f"{where.path}/documents/interval=2026-01-30/notes.txt", b"mine")
    upload_documents(write_documents(tmp_path / "b", "c"), target, DAY)
    upload_documents(write_documents(tmp_path / "c", "a"), target, "2026-01-30")  # a person was forgotten
    assert read_texts(target) == ["a", "c"]
    files = read_stored(target)
    assert len(files) == 5 and files["documents/interval=2026-01-30/notes.txt"] == b"mine"  # what others put there


def test_a_damaged_or_missing_part_is_sent_again(target: str, tmp_path: Path) -> None:
    file = write_documents(tmp_path / "d.parquet", "a", "b", "c")
    upload_documents(file, target, DAY)
    before = read_stored(target)
    where = open_address(target)
    first, second = sorted(name for name in before if name.endswith(".parquet"))[:2]
    where.filesystem.pipe_file(f"{where.path}/{first}", b"x" * len(before[first]))
    where.filesystem.rm_file(f"{where.path}/{second}")
    assert upload_documents(file, target, DAY)["sent"] == 2
    assert read_stored(target) == before


def test_a_break_leaves_no_manifest_and_goes_on(target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, write_file = write_documents(tmp_path / "d.parquet", "a", "b", "c"), repository._Partition.write_file
    calls = iter(range(100))

    def break_line(partition: Any, name: str, data: bytes) -> None:
        if next(calls) == 2:
            raise RepositoryError("the line is dead")
        write_file(partition, name, data)

    monkeypatch.setattr(repository._Partition, "write_file", break_line)
    with pytest.raises(RepositoryError):
        upload_documents(file, target, DAY)
    assert read_texts(target) == ["a", "b"] and not any(MANIFEST in name for name in read_stored(target))
    assert upload_documents(file, target, DAY)["sent"] == 1
    assert read_texts(target) == ["a", "b", "c"]


def test_a_killed_upload_to_a_folder_goes_on_and_is_tidied_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, target = write_documents(tmp_path / "d.parquet", "a", "b", "c"), str(tmp_path / "repository")
    calls, replace = iter(range(100)), os.replace

    def interrupt(*paths: Any) -> None:  # nothing tidies up after it
        if next(calls) == 1:
            raise KeyboardInterrupt
        replace(*paths)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", interrupt)
        upload_documents(file, target, DAY)
    assert read_texts(target) == ["a"] and len(read_stored(target)) == 2
    monkeypatch.setattr(os, "getpid", lambda: 0)  # another process
    assert upload_documents(file, target, DAY)["sent"] == 2
    assert read_texts(target) == ["a", "b", "c"]
    assert len(read_stored(target)) == 4


def test_a_store_that_garbles_is_detected(tmp_path: Path, s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from s3fs import S3FileSystem

    original = S3FileSystem._pipe_file

    async def garble(self: Any, path: str, data: bytes, **more: Any) -> Any:
        return await original(self, path, data[:-1] + b"?", **more)

    monkeypatch.setattr(S3FileSystem, "_pipe_file", garble)
    with pytest.raises(RepositoryError, match="not what was sent"):
        upload_documents(write_documents(tmp_path / "d", "a"), s3, DAY)
    assert not any(MANIFEST in name for name in read_stored(s3))


@pytest.mark.parametrize("wrong", ["s3://no-such-bucket", "gs://bucket", "s3://u:pw@host"])
def test_an_address_that_takes_nothing_is_named(wrong: str, tmp_path: Path, s3: str) -> None:
    with pytest.raises(RepositoryError, match=wrong.partition("://")[0]) as caught:
        upload_documents(write_documents(tmp_path / "d", "a"), wrong, DAY)
    assert "u:pw" not in str(caught.value)


def test_wrong_credentials_are_refused_and_not_shown(tmp_path: Path, azure: str, azure_server: str) -> None:
    with pytest.raises(RepositoryError, match="no-such-container"):
        upload_documents(write_documents(tmp_path / "d", "a"), "abfs://no-such-container", DAY)
    wrong = azure_server.replace("c2Vj", "d3Jv")
    with pytest.raises(RepositoryError, match=azure) as caught:
        upload_documents(write_documents(tmp_path / "d", "a"), azure, DAY, {"AZURE_STORAGE_CONNECTION_STRING": wrong})
    assert "d3Jv" not in str(caught.value)
