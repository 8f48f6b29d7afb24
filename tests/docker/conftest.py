"""What the tests of images share: where files are, and a home with a released GGUF file of random weights."""

import shutil
import sqlite3
from pathlib import Path
from typing import NamedTuple

import pytest

from llmops.access.keys import keys_of
from llmops.config import Config
from llmops.model.gguf.write import write_gguf_folder
from llmops.release.registry.registry import registry_of
from tests.release.conftest import put_version

ROOT = Path(__file__).parents[2]


class Home(NamedTuple):
    """A folder with `registry/` and `state.db`, as an image for Lambda is given it."""

    path: Path
    key: str


@pytest.fixture(scope="session")
def released(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home whose champion v1 is the tiny model, and a user's key to it."""
    home = tmp_path_factory.mktemp("released")
    config = Config(home=home)
    servable = put_version(config) / "servable"
    shutil.rmtree(servable)
    write_gguf_folder(tiny_base, servable, "f16")
    registry_of(config).decide("v1", "gate", "promoted", by="a test", why="passed")
    registry_of(config).promote("v1")
    key, _ = keys_of(config).create("user", "somebody")
    with sqlite3.connect(home / "state.db") as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return Home(home, key)
