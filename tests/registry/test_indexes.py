"""Published indexes: whole, apart from their artifact, one of them served."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import sqlalchemy as sa

from llmops import artifacts
from llmops.artifacts import Record
from llmops.config import Config
from llmops.errors import ArtifactError, LlmopsError
from llmops.registry import indexes
from llmops.registry.indexes import serve_index, served_index
from llmops.registry.registry import Registry, registry_of
from llmops.state.tables import audit


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return registry_of(Config(home=tmp_path))


def made(home: Path, name: str, passages: int = 1) -> Path:
    path = home / "artifacts" / "index" / name
    path.mkdir(parents=True)
    (path / "index.db").write_text(name)
    given = {"files": {}, "git_commit": "", "started": "", "finished": "", "metrics": {"passages": passages}}
    artifacts.commit(path, Record(stage="index", fingerprint=name, config={}, inputs={}, interval="", code="", **given))
    return path


def test_what_is_served_outlives_its_artifact(registry: Registry, tmp_path: Path) -> None:
    assert served_index(registry) is None and registry.database.absent, "asking made a database"
    path = made(tmp_path, "one")
    serve_index(registry, path, "2026-01-31", by="a test")
    served = served_index(registry)
    assert served == registry.folder / "indexes" / "one"
    artifacts.write_whole(path / "index.db", b"changed")
    assert (served / "index.db").read_text() == "one"
    assert artifacts.verify(served) == []
    with registry.database.read() as connection:
        actions = connection.execute(sa.select(audit.c.action, audit.c.by, audit.c.target)).all()
    assert [tuple(row) for row in actions] == [("serve_index", "a test", "one")]


def test_what_cannot_be_prepared_is_not_served(registry: Registry, tmp_path: Path) -> None:
    prepared = list[Path]()

    def fails(folder: Path) -> None:
        raise LlmopsError("no room")

    serve_index(registry, made(tmp_path, "one"), "2026-01-31", by="a test", prepare=prepared.append)
    served = served_index(registry)
    assert prepared == [served]
    with pytest.raises(LlmopsError, match="no room"):
        serve_index(registry, made(tmp_path, "two"), "2026-02-01", by="a test", prepare=fails)
    assert served_index(registry) == served
    serve_index(registry, made(tmp_path, "none", passages=0), "2026-02-01", by="a test", prepare=fails)
    assert served_index(registry) is None, "of nothing nothing has to be prepared"


def test_what_is_damaged_is_published_anew(registry: Registry, tmp_path: Path) -> None:
    path = made(tmp_path, "one")
    serve_index(registry, path, "2026-01-31", by="a test")
    file = registry.folder / "indexes" / "one" / "index.db"
    artifacts.write_whole(file, b"damaged")
    serve_index(registry, path, "2026-02-01", by="a test")
    assert file.read_text() == "one"


def test_of_which_an_erasure_has_left_nothing_none_is_served(registry: Registry, tmp_path: Path) -> None:
    path = made(tmp_path, "one", passages=3)
    artifacts.amend(path, {"id": "e1", "rows": 2})
    serve_index(registry, path, "2026-01-31", by="a test")
    assert served_index(registry)
    artifacts.amend(path, {"id": "e2", "rows": 1})
    serve_index(registry, path, "2026-02-01", by="a test")
    assert served_index(registry) is None


def test_across_disks_it_is_a_copy(registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError

    monkeypatch.setattr(os, "link", refuse)
    serve_index(registry, made(tmp_path, "one"), "2026-01-31", by="a test")
    served = served_index(registry)
    assert served and (served / "index.db").read_text() == "one"


def test_killed_while_it_is_published_the_one_before_is_served(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve_index(registry, made(tmp_path, "one"), "2026-01-31", by="a test")

    def die(*_: object, **__: object) -> None:
        raise LlmopsError("killed")

    monkeypatch.setattr(indexes.audit, "note", die)
    two = made(tmp_path, "two")
    with pytest.raises(LlmopsError, match="killed"):
        serve_index(registry, two, "2026-02-01", by="a test")
    assert served_index(registry) == registry.folder / "indexes" / "one"
    monkeypatch.undo()
    serve_index(registry, two, "2026-02-01", by="a test")
    assert served_index(registry) == registry.folder / "indexes" / "two"
    assert [path.name for path in indexes.published(registry)] == ["one", "two"]


def test_a_damaged_artifact_is_not_published(registry: Registry, tmp_path: Path) -> None:
    serve_index(registry, made(tmp_path, "one"), "2026-01-31", by="a test")
    two = made(tmp_path, "two")
    artifacts.write_whole(two / "index.db", b"damaged")
    with pytest.raises(ArtifactError, match="index.db"):
        serve_index(registry, two, "2026-02-01", by="a test")
    assert served_index(registry) == registry.folder / "indexes" / "one"


def test_killed_over_a_damaged_one_nothing_is_left_that_nobody_knows_of(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = made(tmp_path, "one")
    serve_index(registry, path, "2026-01-31", by="a test")
    folder = registry.folder / "indexes" / "one"
    artifacts.write_whole(folder / "index.db", b"damaged")
    rename = Path.rename

    def die(old: Path, new: Path) -> Path:
        if new == folder:
            raise LlmopsError("killed")
        return rename(old, new)

    monkeypatch.setattr(Path, "rename", die)
    with pytest.raises(LlmopsError, match="killed"):
        serve_index(registry, path, "2026-02-01", by="a test")
    assert {one.name for one in folder.parent.iterdir()} <= {".one.gone", ".one.partial"}
