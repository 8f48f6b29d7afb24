"""Files of 0.1.0: taken into the database once, whole, whoever is killed or comes at the same time."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa

from llmops.errors import RegistryError
from llmops.registry.aliases import names
from llmops.registry.registry import Registry
from llmops.state.database import database_at
from llmops.state.tables import trials

HOME = Path(__file__).parents[1] / "fixtures" / "home-0.1.0"
NAME = next(path.name for path in (HOME / "registry").iterdir() if path.is_dir())


@pytest.fixture
def home(tmp_path: Path) -> Path:
    shutil.copytree(HOME / "registry", tmp_path / "registry")
    return tmp_path


def opened(home: Path, url: str = "") -> Registry:
    return Registry(home / "registry", NAME, database_at(url or f"sqlite:///{home / 'state.db'}"))


def past(home: Path) -> list[dict[str, str]]:
    lines = (HOME / "registry" / NAME / "history.jsonl").read_text().splitlines()
    return [{**change, "aliases": names(change["aliases"])} for change in map(json.loads, lines)]


def look(home: Path, url: str) -> None:
    registry = opened(home, url)
    assert registry.aliases() == {"candidate": "v4", "champion": "v2", "previous": "v1"}
    assert registry.history() == past(home)


def test_nothing_is_lost_and_the_files_are_kept_under_other_names(home: Path) -> None:
    registry = opened(home)
    assert registry.history() == past(home)
    assert [(d["version"], d["kind"], d["outcome"]) for d in registry.decisions()] == [
        ("v1", "gate", "promoted"), ("v2", "gate", "rejected"), ("v3", "gate", "rejected"), ("v4", "gate", "rejected"),
    ]  # fmt: skip
    folder = registry.folder
    assert {p.name for p in folder.glob("*.taken-over")} == {"aliases.json.taken-over", "history.jsonl.taken-over"}
    assert not (folder / "aliases.json").exists()
    registry.rollback()
    opened(home).rollback()
    assert len(registry.history()) == len(past(home)) + 2
    with pytest.raises(RegistryError, match="v3 is rejected by the gate: .*--override"):
        registry.promote("v3")


def test_files_that_come_back_are_not_read_again(home: Path) -> None:
    opened(home).rollback()
    shutil.copy(HOME / "registry" / NAME / "aliases.json", home / "registry" / NAME)
    assert opened(home).aliases()["champion"] == "v1"


def test_a_registry_that_is_only_read_is_taken_over_once(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("read-only file system")

    monkeypatch.setattr(Path, "rename", refuse)
    opened(home).rollback()
    assert opened(home).aliases()["champion"] == "v1" and (home / "registry" / NAME / "aliases.json").exists()


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_processes_that_come_at_once_all_see_the_whole(home: Path, kind: str, request: pytest.FixtureRequest) -> None:
    url = f"sqlite:///{home / 'state.db'}" if kind == "sqlite" else request.getfixturevalue("postgresql")()
    workers = [multiprocessing.get_context("spawn").Process(target=look, args=(home, url)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0] * 4
    look(home, url)


@pytest.mark.parametrize("left", [0, 1, 5, 9, 15, "rename"])
def test_killed_in_the_middle_the_next_one_does_it(home: Path, left: int | str) -> None:
    code = f"""
import os, signal
from pathlib import Path
import sqlalchemy as sa
from llmops.registry.aliases import names
from llmops.registry.registry import Registry
from llmops.state.database import database_at
left = [{left!r}]
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
@sa.event.listens_for(sa.Engine, "after_cursor_execute")
def after(connection, cursor, statement, *_):
    if left[0] != "rename" and statement.startswith("INSERT") and "llmops_revision" not in statement:
        if not left[0]:
            die()
        left[0] -= 1
if left[0] == "rename":
    Path.rename = die
Registry(Path({str(home / "registry")!r}), {NAME!r}, database_at("sqlite:///{home / "state.db"}")).aliases()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr
    look(home, f"sqlite:///{home / 'state.db'}")
    assert len(opened(home).decisions()) == 4


def test_a_going_canary_goes_on(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = home / "registry" / NAME
    aliases = json.loads((folder / "aliases.json").read_text())
    canary = {"version": "v1", "share": 0.1, "started": "2026-02-01T00:00:00.000001+00:00"}
    (folder / "aliases.json").write_text(json.dumps({**aliases, "canary": canary}))
    with caplog.at_level("WARNING"):
        registry = opened(home)
        registry.aliases()
    assert "what 0.1.0 has counted of the canary v1 is left" in caplog.text
    going = registry.canary()
    assert going and (going.version, going.share, going.started) == tuple(canary.values())
    assert registry.history()[-1]["why"] == "taken over from aliases.json"  # 0.1.0 died before its line was written
    with registry.database.read() as connection:
        kept = connection.execute(sa.select(trials.c.version, trials.c.ended).order_by(trials.c.started.desc())).all()
    assert [(row.version, bool(row.ended)) for row in kept] == [("v1", True), ("v1", False)]  # one was over before
    assert registry.stop_canary(trial=going.started) == going


@pytest.mark.parametrize(
    "damage",
    [
        "{",
        "[]",
        '{"champion": 1}',
        '{"champion": "v2-old"}',
        '{"champion": "v1", "canary": {"version": "v2", "share": "x", "started": "2026"}}',
        *(f'{{"champion": "v1", "canary": {c}}}' for c in ('"v2"', "{}", '{"version": "v2"}')),
    ],
)
def test_damage_is_named_and_nothing_is_taken_over(home: Path, damage: str) -> None:
    file = home / "registry" / NAME / "aliases.json"
    file.write_text(damage)
    for _ in range(2):
        with pytest.raises(RegistryError, match="aliases.json is damaged.*history.jsonl"):
            opened(home).aliases()
    assert file.read_text() == damage
    file.write_text(json.dumps(past(home)[-1]["aliases"]))  # as the error says
    look(home, f"sqlite:///{home / 'state.db'}")


def test_a_damaged_line_of_the_history_is_named(home: Path) -> None:
    with open(home / "registry" / NAME / "history.jsonl", "a") as handle:
        handle.write('{"time": "2026')
    with pytest.raises(RegistryError, match=r"Line 8 of .*history.jsonl is damaged"):
        opened(home).aliases()


CANARY = {"version": "v1", "share": 0.1, "started": "2026-02-01T00:00:00.000001+00:00"}


@pytest.mark.parametrize(
    "change",
    [
        {"why": None},
        {"time": 5},
        {"aliases": {"champion": "v2-old"}},
        {"aliases": {"champion": "v1", "canary": {**CANARY, "share": "x"}}},
        b"\xff\xfe",
    ],
)
def test_a_line_of_other_types_is_named(home: Path, change: dict[str, object] | bytes) -> None:
    line = change if isinstance(change, bytes) else json.dumps({**past(home)[-1], **change}).encode()
    with open(home / "registry" / NAME / "history.jsonl", "ab") as handle:
        handle.write(line + b"\n")
    with pytest.raises(RegistryError, match=r"Line 8 of .*history.jsonl is damaged.*mend it or take it out"):
        opened(home).aliases()


def test_a_canary_that_begins_again_goes_on(home: Path) -> None:
    folder, last = home / "registry" / NAME, past(home)[-1]
    going = {**last["aliases"], "canary": CANARY}  # type: ignore[dict-item]
    with open(folder / "history.jsonl", "a") as handle:
        for entries in (going, last["aliases"], going):
            handle.write(json.dumps({**last, "aliases": entries}) + "\n")
    (folder / "aliases.json").write_text(json.dumps(going))
    registry = opened(home)
    assert registry.aliases()["canary"] == "v1"
    with registry.database.read() as connection:
        started = trials.c.started == CANARY["started"]
        kept = connection.execute(sa.select(trials.c.ended).where(started)).all()
    assert [row.ended for row in kept] == [None]


def test_a_canary_that_the_gate_had_not_passed_ends_and_the_history_says_so(home: Path) -> None:
    file = home / "registry" / NAME / "aliases.json"
    aliases = json.loads(file.read_text())
    canary = {"version": "v4", "share": 0.1, "started": "2026-02-01T00:00:00.000001+00:00"}
    file.write_text(json.dumps({**aliases, "canary": canary}))
    registry = opened(home)
    assert registry.canary() is None and registry.aliases() == aliases
    assert [change["aliases"].get("canary") for change in registry.history()[-2:]] == ["v4", None]
    assert "v4 is rejected by the gate" in registry.ended(canary["started"])["why"]
    with registry.database.read() as connection:
        kept = connection.execute(sa.select(trials.c.ended).where(trials.c.version == "v4")).all()
    assert [bool(row.ended) for row in kept] == [True]


def test_another_registry_of_the_same_name_is_refused_and_left_as_it_is(home: Path) -> None:
    opened(home).rollback()
    shutil.copytree(HOME / "registry" / NAME, home / "second" / NAME)
    with open(home / "second" / NAME / "history.jsonl", "a") as handle:
        handle.write(json.dumps({**past(home)[-1], "why": "elsewhere"}) + "\n")
    second = Registry(home / "second", NAME, opened(home).database)
    for _ in range(2):
        with pytest.raises(RegistryError, match=r"knows another one named shop-bot.*state\.url.*release\.name"):
            second.aliases()
    assert (second.folder / "aliases.json").exists() and (second.folder / "history.jsonl").exists()
    assert opened(home).aliases()["champion"] == "v1"
    (second.folder).rename(home / "second" / "other")  # as the error says
    assert Registry(home / "second", "other", opened(home).database).aliases()["champion"] == "v2"


def test_a_folder_that_is_no_versions_is_left(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    versions = home / "registry" / NAME / "versions"
    shutil.copytree(versions / "v3", versions / "v3.bak")
    assert [version.name for version in opened(home).versions()] == ["v1", "v2", "v3", "v4"]
    assert "v3.bak is no version's folder" in caplog.text


@pytest.mark.parametrize("damage", ["{", "[]", "{}", "7", '{"outcome": "promoted", "reasons": 7}'])
def test_a_damaged_decision_is_named_and_what_to_do_helps(home: Path, damage: str) -> None:
    file = home / "registry" / NAME / "versions" / "v3" / "decision.json"
    file.write_text(damage)
    with pytest.raises(RegistryError, match=r"v3/decision.json is damaged.*remove it"):
        opened(home).aliases()
    file.unlink()
    registry = opened(home)
    assert registry.get("v3").status == "undecided" and registry.get("v1").status == "promoted"
    with pytest.raises(RegistryError, match="v3 is undecided by the gate: there is no decision on it.*--override"):
        registry.promote("v3")
    assert registry.promote("v3", override="it was good").name == "v3"
