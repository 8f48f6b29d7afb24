"""Edited weights are another model: by a user's way through `run_stage`, and what the hashing costs."""

import os
import shutil
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from sqlalchemy.exc import ProgrammingError

from llmops.config import Select, load
from llmops.frame import artifacts
from llmops.frame.artifacts import Record, compute_sha256
from llmops.frame.errors import ArtifactError, StateUnavailable
from llmops.frame.records import Example, read_selection, write_rows
from llmops.model.base import hashes
from llmops.model.base.catalog import CatalogueEntry, read_catalogue
from llmops.pipeline.pipeline import plan_stage, run_stage
from llmops.state import file_hashes
from llmops.state.database import database_at
from tests.model.samples import make_example

DAY = "2026-01-31"


@pytest.fixture
def base(tiny_base: Path, tmp_path: Path) -> Path:
    """Return a copy of the base model."""
    folder = tmp_path / "mine"
    shutil.copytree(tiny_base, folder)
    return folder


def change_last_byte(file: Path) -> None:
    """Change the last byte of a file, with the same size and time."""
    before, data = file.stat(), bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_edited_weights_are_selected_and_used_anew(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmops.state.file_hashes._FRESH_NS", -1)  # no file counts as written just now
    select = {"model": str(base), "score_items": 0}
    config = load(
        overrides={"home": str(tmp_path / "home"), "collect": {"root": str(tmp_path)}, "select": select}, environ={}
    )
    inputs = {"annotate": tmp_path / "home" / "artifacts" / "annotate" / ("0" * 16)}
    for split in ("train", "validation", "test"):
        write_rows(inputs["annotate"] / f"{split}.parquet", [make_example(len(split), split)], Example)
    facts: dict[str, Any] = dict.fromkeys(("interval", "code", "git_commit", "started", "finished"), "")
    record = Record(stage="annotate", fingerprint="0" * 16, config={}, inputs={}, metrics={}, files={}, **facts)
    artifacts.commit(inputs["annotate"], record)
    first = run_stage("select", config, DAY, inputs)
    assert read_selection(first)["weights"]["model.safetensors"] == compute_sha256(base / "model.safetensors")
    features = plan_stage("features", config, DAY, {**inputs, "select": first}).path
    assert run_stage("select", config, DAY, inputs) == first

    change_last_byte(base / "model.safetensors")
    with pytest.raises(ArtifactError, match=r"model\.safetensors changed"):  # a task that was given the old selection
        run_stage("features", config, DAY, {**inputs, "select": first})
    second = run_stage("select", config, DAY, inputs)
    assert second != first and plan_stage("features", config, DAY, {**inputs, "select": second}).path != features

    (base / "chat_template.jinja").write_text("{{ messages }}")
    assert plan_stage("select", config, DAY, inputs).path not in (first, second)


def test_a_file_is_hashed_once_without_a_database(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    monkeypatch.setattr(hashes, "compute_sha256", lambda path: read.append(path.name) or compute_sha256(path))
    monkeypatch.setattr("llmops.state.file_hashes._FRESH_NS", -1)
    there, absent, shut, role = (f"sqlite:///{tmp_path / name}.db" for name in ("there", "absent", "shut", "role"))
    for url in (there, shut, role):
        with database_at(url).change():
            pass
    change = database_at(shut).change
    denied = ProgrammingError("DELETE", {}, Exception("permission denied"))  # to a role of PostgreSQL that may SELECT
    for url, error in ((shut, StateUnavailable("read-only")), (role, denied)):
        monkeypatch.setattr(database_at(url), "change", Mock(side_effect=error))
    for url in (there, absent, shut, role):
        read.clear()
        found = hashes.hash_model_files(base, url)
        assert found == {f.name: compute_sha256(f) for f in base.iterdir()} and sorted(read) == sorted(found)
        change_last_byte(base / "model.safetensors")
        assert hashes.hash_model_files(base, url) != found and read[len(found) :] == ["model.safetensors"]
    assert not (tmp_path / "absent.db").exists()
    monkeypatch.setattr("llmops.state.file_hashes._unwritten", {})  # as another process has it
    for url, number in ((there, 0), (absent, len(found)), (shut, len(found))):
        read.clear()
        hashes.hash_model_files(base, url)
        assert len(read) == number + (url == there)  # edited since
    monkeypatch.setattr(database_at(shut), "change", change)
    change_last_byte(base / "model.safetensors")
    hashes.hash_model_files(base, shut)  # written now, and no longer kept in memory
    assert len(file_hashes._unwritten[shut]) == len(found) - 1


def test_a_damaged_download_is_named(tmp_path: Path) -> None:
    blob = tmp_path / "blobs" / ("0" * 64)
    blob.parent.mkdir()
    blob.write_bytes(b"half of it")
    snapshot = tmp_path / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").symlink_to(blob)
    with pytest.raises(ArtifactError, match="is damaged.*download it again"):
        hashes.hash_model_files(snapshot, "")


def test_a_package_counts_where_it_may_be_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gguf = tmp_path / "tiny.gguf"
    gguf.write_bytes(b"one")
    monkeypatch.setattr(CatalogueEntry, "find_packaged_file", lambda self: gguf if self.package else None)
    packed = next(e.model for e in read_catalogue() if e.package)
    one = hashes.hash_local_weights(Select(), "")
    assert one and one == hashes.hash_local_weights(Select(model=packed), "")
    assert hashes.hash_local_weights(Select(model="Qwen/Qwen2.5-7B-Instruct"), "") == ""
    assert hashes.hash_local_weights(Select(revision="v2"), "") == ""
    gguf.write_bytes(b"two")
    assert hashes.hash_local_weights(Select(), "") != one
