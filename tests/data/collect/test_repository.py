"""repository: uploads are complete, checked, and repeated after an interruption; to a folder, S3 and Azure Blob."""

import os
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmops.data.collect import repository
from llmops.data.collect.repository import FILE, RepositoryError, upload_documents
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
    """Return the texts that a reader of the whole folder finds, in order."""
    files = sorted((name, data) for name, data in read_stored(target).items() if name.endswith(".parquet"))
    return [t for _, data in files for t in pq.read_table(pa.BufferReader(data))["text"].to_pylist()]


def test_upload_is_whole_checked_and_once(target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_documents(tmp_path / "d.parquet", "ab", "c")
    assert upload_documents(file, target, DAY) == {"bytes": file.stat().st_size, "sent": True}
    assert read_texts(target) == ["a", "b", "c"]
    assert read_stored(target) == {f"documents/interval={DAY}/{FILE}": file.read_bytes()}

    def refuse(*_: Any, **__: Any) -> None:
        raise ValueError("sent again")

    monkeypatch.setattr(shutil, "copyfile", refuse)
    monkeypatch.setattr(type(open_address(target).filesystem), "_put_file", refuse, raising=False)
    assert not upload_documents(file, target, DAY)["sent"]


def test_intervals_stand_side_by_side_and_one_is_replaced_by_its_own_only(target: str, tmp_path: Path) -> None:
    upload_documents(write_documents(tmp_path / "a", "a", "b"), target, "2026-01-30")
    where = open_address(target)
    where.filesystem.pipe_file(f"{where.path}/documents/interval=2026-01-30/notes.txt", b"mine")
    upload_documents(write_documents(tmp_path / "b", "c"), target, DAY)
    upload_documents(write_documents(tmp_path / "c", "a"), target, "2026-01-30")  # a person was forgotten
    assert read_texts(target) == ["a", "c"]
    files = read_stored(target)
    assert len(files) == 3 and files["documents/interval=2026-01-30/notes.txt"] == b"mine"  # what others put there


def test_a_damaged_or_missing_file_is_sent_again(target: str, tmp_path: Path) -> None:
    file = write_documents(tmp_path / "d.parquet", "a", "b", "c")
    upload_documents(file, target, DAY)
    before, where = read_stored(target), open_address(target)
    (name,) = before
    where.filesystem.pipe_file(f"{where.path}/{name}", b"x" * len(before[name]))
    assert upload_documents(file, target, DAY)["sent"] and read_stored(target) == before
    where.filesystem.rm_file(f"{where.path}/{name}")
    assert upload_documents(file, target, DAY)["sent"] and read_stored(target) == before


def test_documents_in_parts_of_an_earlier_version_are_refused(target: str, tmp_path: Path) -> None:
    where = open_address(target)
    part = f"{where.path}/documents/interval={DAY}/part-00000-0123456789abcdef.parquet"
    where.filesystem.makedirs(part.rpartition("/")[0], exist_ok=True)
    where.filesystem.pipe_file(part, b"a person's rows")
    with pytest.raises(RepositoryError, match=f"interval={DAY} .* Delete it"):
        upload_documents(write_documents(tmp_path / "d", "a"), target, DAY)
    with pytest.raises(RepositoryError, match="Delete it"):
        repository.fetch_documents(target, DAY, tmp_path)
    assert list(read_stored(target).values()) == [b"a person's rows"]


def test_a_killed_upload_to_a_folder_changes_nothing_and_is_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = str(tmp_path / "repository")
    upload_documents(write_documents(tmp_path / "old", "x"), target, DAY)
    file = write_documents(tmp_path / "d.parquet", "a", "b", "c")

    def interrupt(*_: Any) -> None:  # nothing tidies up after it
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "replace", interrupt)
        upload_documents(file, target, DAY)
    stored = read_stored(target)
    assert len(stored) == 2 and stored[f"documents/interval={DAY}/{FILE}"] == (tmp_path / "old").read_bytes()
    assert upload_documents(file, target, DAY)["sent"]
    assert read_stored(target) == {f"documents/interval={DAY}/{FILE}": file.read_bytes()}


def test_a_store_that_garbles_is_detected(tmp_path: Path, s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from s3fs import S3FileSystem

    original = S3FileSystem._put_file

    async def garble(self: Any, source: str, path: str, **more: Any) -> Any:
        data = Path(source).read_bytes()
        Path(source).write_bytes(data[:-1] + b"?")
        try:
            return await original(self, source, path, **more)
        finally:
            Path(source).write_bytes(data)

    monkeypatch.setattr(S3FileSystem, "_put_file", garble)
    with pytest.raises(RepositoryError, match="not what was sent"):
        upload_documents(write_documents(tmp_path / "d", "a"), s3, DAY)
    assert not read_stored(s3)


def test_a_disk_that_garbles_is_detected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = str(tmp_path / "repository")
    upload_documents(write_documents(tmp_path / "old", "x"), target, DAY)
    stored = read_stored(target)
    monkeypatch.setattr(shutil, "copyfile", lambda _, path: Path(path).write_bytes(b"?"))
    with pytest.raises(RepositoryError, match="not what was sent"):
        upload_documents(write_documents(tmp_path / "d", "a"), target, DAY)
    assert read_stored(target) == stored


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
