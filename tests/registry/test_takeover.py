"""Files of 0.1.0 are taken into the database once, whole, and what is damaged is left as it is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from llmops.errors import RegistryError
from llmops.registry.aliases import names
from llmops.registry.registry import Registry
from llmops.state.database import database_at

HOME = Path(__file__).parents[1] / "fixtures" / "home-0.1.0"
NAME = next(path.name for path in (HOME / "registry").iterdir() if path.is_dir())


def opened(home: Path) -> Registry:
    return Registry(home / "registry", NAME, database_at(f"sqlite:///{home / 'state.db'}"))


def test_files_of_0_1_0_are_taken_over_once_unless_they_are_damaged(tmp_path: Path) -> None:
    shutil.copytree(HOME / "registry", tmp_path / "registry")
    folder = tmp_path / "registry" / NAME
    lines = list(map(json.loads, (folder / "history.jsonl").read_text().splitlines()))
    past = [{**change, "aliases": names(change["aliases"])} for change in lines]
    whole = (folder / "aliases.json").read_text()
    (folder / "aliases.json").write_text('{"champion": 1}')
    for _ in range(2):
        with pytest.raises(RegistryError, match="aliases.json is damaged.*history.jsonl"):
            opened(tmp_path).aliases()
    (folder / "aliases.json").write_text(whole)
    registry = opened(tmp_path)
    assert registry.aliases() == {"candidate": "v4", "champion": "v2", "previous": "v1"}
    assert registry.history() == past
    decided = [(d["version"], d["kind"], d["outcome"]) for d in registry.decisions()]
    assert decided == [("v1", "gate", "promoted"), *((f"v{n}", "gate", "rejected") for n in (2, 3, 4))]
    assert {p.name for p in folder.glob("*.taken-over")} == {"aliases.json.taken-over", "history.jsonl.taken-over"}
    assert not (folder / "aliases.json").exists()
    registry.rollback()
    shutil.copy(HOME / "registry" / NAME / "aliases.json", folder)  # it comes back, and is not read again
    assert opened(tmp_path).aliases()["champion"] == "v1" and len(registry.history()) == len(past) + 1
    with pytest.raises(RegistryError, match="v3 is rejected by the gate: .*--override"):
        registry.promote("v3")
