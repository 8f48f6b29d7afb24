"""What the tests of images share: where files are, and a home with a released model of random weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest

from llmops.access.keys import KeyStore

ROOT = Path(__file__).parents[2]


class Home(NamedTuple):
    """A folder with `registry/` and `keys.json`, as an image for Lambda is given it."""

    path: Path
    key: str


@pytest.fixture(scope="session")
def released(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home whose champion v1 is the tiny model, and a user's key to it."""
    home = tmp_path_factory.mktemp("released")
    version = home / "registry" / "support-bot" / "versions" / "v1"
    shutil.copytree(tiny_base, version / "servable")
    facts = ["compared_with", "compress", "base_model", "base_revision", "licence", "quantisation", "interval", "run"]
    said = {**dict.fromkeys([*facts, "dataset", "created"], "x"), "name": "v1", "status": "promoted"}
    (version / "version.json").write_text(json.dumps(said))
    (version.parents[1] / "aliases.json").write_text('{"champion": "v1"}')
    key, _ = KeyStore(home / "keys.json").create("user", "somebody")
    return Home(home, key)
