"""What the tests of images share: where files are, and a home with a released GGUF file of random weights."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from llmops.access.keys import keys_of
from llmops.config import Config
from llmops.model.gguf.write import write_folder
from llmops.registry.registry import registry_of

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"


def requirements(path: Path) -> dict[str, Requirement]:
    lines = [line.split("#")[0].strip() for line in path.read_text().splitlines()]
    return {canonicalize_name(r.name): r for r in (Requirement(x) for x in lines if x and not x.startswith("-"))}


class Home(NamedTuple):
    """A folder with `registry/` and `state.db`, as an image for Lambda is given it."""

    path: Path
    key: str


def environment(released: Home, home: Path) -> dict[str, str]:
    """What the app of a serverless image is told, with a home that may be written."""
    return {
        "LLMOPS_HOME": str(home),
        "LLMOPS_RELEASE__REGISTRY": str(released.path / "registry"),
        "LLMOPS_IMAGE_STATE": str(released.path / "state.db"),
    }


def files(folder: Path) -> dict[Path, int]:
    """The files below a folder, and when each was written."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.fixture(scope="session")
def released(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home whose champion v1 is the tiny model, and a user's key to it."""
    home = tmp_path_factory.mktemp("released")
    version = home / "registry" / "support-bot" / "versions" / "v1"
    write_folder(tiny_base, version / "servable", "f16")
    facts = ["compared_with", "compress", "base_model", "base_revision", "licence", "quantisation", "interval", "run"]
    said = {**dict.fromkeys([*facts, "dataset", "created"], "x"), "name": "v1", "status": "promoted"}
    (version / "version.json").write_text(json.dumps(said))
    config = Config(home=home)
    registry_of(config).decide("v1", "gate", "promoted", by="a test", why="passed")
    registry_of(config).promote("v1")
    key, _ = keys_of(config).create("user", "somebody")
    with sqlite3.connect(home / "state.db") as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return Home(home, key)
