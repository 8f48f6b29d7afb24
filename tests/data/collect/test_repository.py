"""repository: what is uploaded is there, checked and once, also after breaks; in a folder, S3 and Azure Blob."""

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
from llmops.data.collect.repository import MANIFEST, RepositoryError, upload
from llmops.data.remote import Address, connect, local

DAY = "2026-01-31"


def documents(path: Path, *groups: str) -> Path:
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
def reach(target: str) -> Address:
    return connect(target, os.environ) if "://" in target else local(target)


def stored(target: str) -> dict[str, bytes]:
    where = reach(target)
    found: dict[str, bytes] = {}
    for path in where.filesystem.find(where.path):
        found[path.removeprefix(where.path).strip("/")] = where.filesystem.cat_file(path)
    return found


def texts(target: str) -> list[str]:
    """What a reader that knows nothing of manifests finds, in order."""
    files = sorted((name, data) for name, data in stored(target).items() if name.endswith(".parquet"))
    return [t for _, data in files for t in pq.read_table(pa.BufferReader(data))["text"].to_pylist()]


def test_upload_is_whole_checked_and_once(target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = documents(tmp_path / "d.parquet", "ab", "c")
    done = upload(file, target, DAY)
    assert (done["parts"], done["sent"]) == (2, 2)
    assert texts(target) == ["a", "b", "c"]
    files = stored(target)
    folder = f"documents/interval={DAY}"
    manifest = json.loads(files[f"{folder}/{MANIFEST}"])
    assert (manifest["interval"], manifest["rows"], [p["rows"] for p in manifest["parts"]]) == (DAY, 3, [2, 1])
    assert set(files) == {f"{folder}/{MANIFEST}", *(f"{folder}/{p['name']}" for p in manifest["parts"])}
    for part in manifest["parts"]:
        data = files[f"{folder}/{part['name']}"]
        assert (part["sha256"], part["bytes"]) == (hashlib.sha256(data).hexdigest(), len(data))
    monkeypatch.setattr(repository._Partition, "put", lambda *_: pytest.fail("sent again"))
    assert upload(file, target, DAY)["sent"] == 0
    assert stored(target) == files


def test_intervals_stand_side_by_side_and_one_is_replaced_by_its_own_only(target: str, tmp_path: Path) -> None:
    upload(documents(tmp_path / "a", "a", "b"), target, "2026-01-30")
    where = reach(target)
    where.filesystem.pipe_file(f"{where.path}/documents/interval=2026-01-30/notes.txt", b"mine")
    upload(documents(tmp_path / "b", "c"), target, DAY)
    upload(documents(tmp_path / "c", "a"), target, "2026-01-30")  # a person was forgotten
    assert texts(target) == ["a", "c"]
    files = stored(target)
    assert len(files) == 5 and files["documents/interval=2026-01-30/notes.txt"] == b"mine"  # what others put there


def test_a_damaged_or_missing_part_is_sent_again(target: str, tmp_path: Path) -> None:
    file = documents(tmp_path / "d.parquet", "a", "b", "c")
    upload(file, target, DAY)
    before = stored(target)
    where = reach(target)
    first, second = sorted(name for name in before if name.endswith(".parquet"))[:2]
    where.filesystem.pipe_file(f"{where.path}/{first}", b"x" * len(before[first]))
    where.filesystem.rm_file(f"{where.path}/{second}")
    assert upload(file, target, DAY)["sent"] == 2
    assert stored(target) == before


def test_a_break_leaves_no_manifest_and_goes_on(target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, put = documents(tmp_path / "d.parquet", "a", "b", "c"), repository._Partition.put
    calls = iter(range(100))

    def breaking(partition: Any, name: str, data: bytes) -> None:
        if next(calls) == 2:
            raise RepositoryError("the line is dead")
        put(partition, name, data)

    monkeypatch.setattr(repository._Partition, "put", breaking)
    with pytest.raises(RepositoryError):
        upload(file, target, DAY)
    assert texts(target) == ["a", "b"] and not any(MANIFEST in name for name in stored(target))
    assert upload(file, target, DAY)["sent"] == 1
    assert texts(target) == ["a", "b", "c"]


def test_a_killed_upload_to_a_folder_goes_on_and_is_tidied_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, target = documents(tmp_path / "d.parquet", "a", "b", "c"), str(tmp_path / "repository")
    calls, replace = iter(range(100)), os.replace

    def killed(*paths: Any) -> None:  # nothing tidies up after it
        if next(calls) == 1:
            raise KeyboardInterrupt
        replace(*paths)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", killed)
        upload(file, target, DAY)
    assert texts(target) == ["a"] and len(stored(target)) == 2
    monkeypatch.setattr(os, "getpid", lambda: 0)  # another process
    assert upload(file, target, DAY)["sent"] == 2
    assert texts(target) == ["a", "b", "c"]
    assert len(stored(target)) == 4


def test_a_store_that_garbles_is_found_out(tmp_path: Path, s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from s3fs import S3FileSystem

    original = S3FileSystem._pipe_file

    async def garbling(self: Any, path: str, data: bytes, **more: Any) -> Any:
        return await original(self, path, data[:-1] + b"?", **more)

    monkeypatch.setattr(S3FileSystem, "_pipe_file", garbling)
    with pytest.raises(RepositoryError, match="not what was sent"):
        upload(documents(tmp_path / "d", "a"), s3, DAY)
    assert not any(MANIFEST in name for name in stored(s3))


@pytest.mark.parametrize("wrong", ["s3://no-such-bucket", "gs://bucket", "s3://u:pw@host"])
def test_a_place_that_takes_nothing_is_named(wrong: str, tmp_path: Path, s3: str) -> None:
    with pytest.raises(RepositoryError, match=wrong.partition("://")[0]) as caught:
        upload(documents(tmp_path / "d", "a"), wrong, DAY)
    assert "u:pw" not in str(caught.value)


def test_wrong_credentials_are_refused_and_not_told(tmp_path: Path, azure: str, azure_server: str) -> None:
    with pytest.raises(RepositoryError, match="no-such-container"):
        upload(documents(tmp_path / "d", "a"), "abfs://no-such-container", DAY)
    wrong = azure_server.replace("c2Vj", "d3Jv")
    with pytest.raises(RepositoryError, match=azure) as caught:
        upload(documents(tmp_path / "d", "a"), azure, DAY, {"AZURE_STORAGE_CONNECTION_STRING": wrong})
    assert "d3Jv" not in str(caught.value)
