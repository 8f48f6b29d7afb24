"""Files of 0.1.0 are taken into the database once, whole, and what is damaged is left as it is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from llmops.errors import RegistryError
from llmops.registry.registry import Registry
from llmops.state.database import database_at

HOME = Path(__file__).parents[1] / "fixtures" / "home-0.1.0"
NAME = next(path.name for path in (HOME / "registry").iterdir() if path.is_dir())


def test_files_of_0_1_0_are_taken_over_once_unless_they_are_damaged(tmp_path: Path) -> None:
    shutil.copytree(HOME / "registry", tmp_path / "registry")
    file = tmp_path / "registry" / NAME / "aliases.json"
    whole = file.read_text()
    registry = Registry(tmp_path / "registry", NAME, database_at(f"sqlite:///{tmp_path / 'state.db'}"))
    file.write_text('{"champion": 1}')
    for _ in range(2):
        with pytest.raises(RegistryError, match="aliases.json is damaged.*history.jsonl"):
            registry.aliases()
    file.write_text(whole)
    assert registry.aliases() == {"candidate": "v4", "champion": "v2", "previous": "v1"}
    changes = len(registry.history())
    decided = [(d["version"], d["kind"], d["outcome"]) for d in registry.decisions()]
    assert decided == [("v1", "gate", "promoted"), *((f"v{n}", "gate", "rejected") for n in (2, 3, 4))]
    assert {p.name for p in file.parent.glob("*.taken-over")} == {"aliases.json.taken-over", "history.jsonl.taken-over"}
    registry.rollback()
    file.write_text(whole)  # it comes back, and is not read again
    again = Registry(tmp_path / "registry", NAME, registry.database)
    assert again.aliases()["champion"] == "v1" and len(again.history()) == changes + 1


def test_another_registry_of_the_name_is_left_and_a_canary_that_the_gate_had_not_passed_ends(tmp_path: Path) -> None:
    for root in ("one", "two"):
        shutil.copytree(HOME / "registry", tmp_path / root)
    file, known = tmp_path / "two" / NAME / "aliases.json", database_at(f"sqlite:///{tmp_path / 'one.db'}")
    canary = {"version": "v4", "share": 0.1, "started": "2026-02-01T00:00:00.000001+00:00"}
    file.write_text(json.dumps({**json.loads(file.read_text()), "canary": canary}))
    assert Registry(tmp_path / "one", NAME, known).champion()
    with pytest.raises(RegistryError, match=rf"knows another one named {NAME}"):
        Registry(tmp_path / "two", NAME, known).aliases()
    assert file.exists()
    own = Registry(tmp_path / "two", NAME, database_at(f"sqlite:///{tmp_path / 'two.db'}"))
    assert own.canary() is None and "v4 is rejected by the gate" in own.ended(str(canary["started"]))["why"]
