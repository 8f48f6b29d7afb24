"""Versions, aliases that move together, and what a crash leaves behind."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from llmops.errors import RegistryError
from llmops.registry.registry import Registry
from llmops.registry.version import Version

TREES = ("adapter", "servable")


def add(registry: Registry, train: str, status: str = "promoted", against: str = "base", **documents: str) -> Version:
    source = registry.folder.parent / "artifacts" / train
    for name in TREES:
        (source / name).mkdir(parents=True, exist_ok=True)
        (source / name / "weights.bin").write_text(f"{name} of {train}")
    facts = {
        "status": status,
        "compared_with": against,
        "compress": train,
        "base_model": "tiny",
        "base_revision": "1",
        "licence": "mit",
        "quantisation": "bf16",
        "interval": "2026-01-01",
        "run": "",
        "dataset": "d",
    }

    def texts(version: Version) -> Mapping[str, str]:
        return {"README.md": f"{version.name} {version.status}", **documents}

    return registry.publish(facts, {name: source / name for name in TREES}, texts, by="test", why=f"publish {train}")


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path, "bot")


def test_an_empty_registry(registry: Registry) -> None:
    assert (registry.versions(), registry.aliases(), registry.champion()) == ([], {}, None)
    assert registry.opponent("t1") is None
    with pytest.raises(RegistryError, match="none yet"):
        registry.get("champion")
    with pytest.raises(RegistryError, match="no previous"):
        registry.rollback()


def test_the_first_promoted_version_is_champion_and_holds_everything(registry: Registry) -> None:
    version = add(registry, "t1")
    assert registry.aliases() == {"candidate": "v1", "champion": "v1"}
    assert registry.champion() == registry.get("champion") == registry.get("v1") == version
    assert (version.servable / "weights.bin").read_text() == "servable of t1"
    assert (version.adapter / "weights.bin").read_text() == "adapter of t1"
    assert (version.path / "README.md").read_text() == "v1 promoted"


def test_a_rejected_version_is_kept_and_the_champion_stays(registry: Registry) -> None:
    add(registry, "t1")
    add(registry, "t2", "rejected", "v1")
    assert registry.aliases() == {"candidate": "v2", "champion": "v1"}
    assert [(v.name, v.status) for v in registry.versions()] == [("v1", "promoted"), ("v2", "rejected")]


def test_promotion_and_rollback_move_all_aliases(registry: Registry) -> None:
    add(registry, "t1")
    add(registry, "t2", "promoted", "v1")
    assert registry.aliases() == {"candidate": "v2", "champion": "v2", "previous": "v1"}
    assert registry.rollback(by="ana", why="bad answers").name == "v1"
    assert registry.aliases() == {"candidate": "v2", "champion": "v1", "previous": "v2"}
    registry.rollback()
    assert registry.champion() == registry.get("v2")
    assert [(h["by"], h["aliases"]["champion"]) for h in registry.history()] == [
        ("test", "v1"),
        ("test", "v2"),
        ("ana", "v1"),
        ("admin", "v2"),
    ]
    assert registry.history()[2]["why"] == "bad answers"


def test_promoting_the_champion_changes_nothing(registry: Registry) -> None:
    add(registry, "t1")
    registry.promote("v1")
    assert registry.aliases() == {"candidate": "v1", "champion": "v1"}
    assert len(registry.history()) == 1


def test_promotion_by_hand(registry: Registry) -> None:
    add(registry, "t1", "rejected")
    assert registry.champion() is None
    registry.promote("candidate", by="ana")
    assert registry.aliases() == {"candidate": "v1", "champion": "v1"}
    with pytest.raises(RegistryError, match="v9"):
        registry.promote("v9")


def test_publishing_the_same_training_again_gives_the_version_there_is(registry: Registry) -> None:
    first = add(registry, "t1")
    again = add(registry, "t1")
    assert again == first
    assert len(registry.versions()) == len(registry.history()) == 1


def test_a_rerun_does_not_undo_a_rollback(registry: Registry) -> None:
    add(registry, "t1")
    add(registry, "t2", "promoted", "v1")
    registry.rollback()
    add(registry, "t2", "promoted", "v1")
    assert registry.champion() == registry.get("v1")


def test_a_new_decision_on_a_rejected_version_can_promote_it(registry: Registry) -> None:
    add(registry, "t1")
    add(registry, "t2", "rejected", "v1")
    assert add(registry, "t2", "promoted", "v1", **{"evaluation.json": "{}"}).status == "promoted"
    assert registry.aliases()["champion"] == "v2"
    assert (registry.get("v2").path / "evaluation.json").exists()


def test_a_promotion_over_a_champion_of_yesterday_does_not_count(registry: Registry) -> None:
    add(registry, "t1")
    add(registry, "t2", "promoted", "v1")
    late = add(registry, "t3", "promoted", "v1")
    assert (late.status, late.compared_with) == ("inconclusive", "")
    assert registry.aliases() == {"candidate": "v3", "champion": "v2", "previous": "v1"}
    assert registry.opponent("t3") == registry.get("v2").path  # it must be compared again, with today's
    assert add(registry, "t3", "promoted", "v2").status == "promoted"
    assert registry.aliases()["champion"] == "v3"


def test_the_opponent_of_decided_training_stays_what_it_was(registry: Registry) -> None:
    add(registry, "t1")
    assert registry.opponent("t1") is None  # the base model, though v1 is champion now
    assert registry.opponent("t2") == registry.get("v1").path
    add(registry, "t2", "promoted", "v1")
    assert registry.opponent("t2") == registry.get("v1").path
    assert registry.opponent("t1") is None


def test_a_crash_while_building_leaves_no_version(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    add(registry, "t1")

    def die(self: Path, target: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "rename", die)
        add(registry, "t2", "promoted", "v1")
    assert [v.name for v in registry.versions()] == ["v1"]
    assert registry.aliases() == {"candidate": "v1", "champion": "v1"}
    assert add(registry, "t2", "promoted", "v1").name == "v2"
    assert sorted(p.name for p in (registry.folder / "versions").iterdir()) == ["v1", "v2"]


def test_a_crash_between_version_and_alias_is_mended_by_the_rerun(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Registry, "_move", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
        add(registry, "t1")
    assert registry.champion() is None
    assert registry.opponent("t1") is None
    assert add(registry, "t1").name == "v1"
    assert registry.aliases() == {"candidate": "v1", "champion": "v1"}


def test_a_removed_version_number_is_not_used_again(registry: Registry) -> None:
    add(registry, "t1")
    last = add(registry, "t2", "rejected", "v1")
    last.path.rename(registry.folder / "gone")
    assert add(registry, "t3", "rejected", "v1").name == "v3"


def test_ten_comes_after_nine(registry: Registry) -> None:
    for n in range(11):
        add(registry, f"t{n}", "rejected")
    assert [v.name for v in registry.versions()] == [f"v{n}" for n in range(1, 12)]
    assert registry.aliases()["candidate"] == "v11"


def test_racing_publishers_make_one_version_each(registry: Registry) -> None:
    threads = [threading.Thread(target=add, args=(registry, f"t{n % 4}", "rejected")) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(v.compress for v in registry.versions()) == ["t0", "t1", "t2", "t3"]


def test_readers_never_see_half_an_alias_file(registry: Registry) -> None:
    add(registry, "t1")
    add(registry, "t2", "promoted", "v1")
    stop, odd = threading.Event(), []

    def read() -> None:
        while not stop.is_set():
            aliases = registry.aliases()
            if {aliases["champion"], aliases["previous"]} != {"v1", "v2"}:
                odd.append(aliases)

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(40):
        registry.rollback()
    stop.set()
    reader.join()
    assert not odd


def test_copies_where_hard_links_do_not_work(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError("cross-device link")

    monkeypatch.setattr("os.link", refuse)
    assert (add(registry, "t1").servable / "weights.bin").read_text() == "servable of t1"


def test_damage_is_named(registry: Registry) -> None:
    version = add(registry, "t1")
    (version.path / "version.json").write_text(json.dumps({"name": "v1"}))
    with pytest.raises(RegistryError, match="damaged"):
        registry.get("v1")
    (registry.folder / "aliases.json").write_text("{")
    with pytest.raises(RegistryError, match="aliases.json"):
        registry.aliases()


def test_a_version_without_its_model_is_not_promoted(registry: Registry) -> None:
    add(registry, "t1")
    other = add(registry, "t2", "rejected", "v1")
    other.servable.rename(other.path / "lost")
    with pytest.raises(RegistryError, match="cannot be served"):
        registry.promote("v2")
    assert registry.aliases()["champion"] == "v1"


@pytest.mark.parametrize("name", ["../v1", "v1/..", "", "v01", "version"])
def test_only_names_of_versions_are_taken(registry: Registry, name: str) -> None:
    add(registry, "t1")
    with pytest.raises(RegistryError):
        registry.get(name)


def test_a_forgotten_person_is_a_mark_that_stays(registry: Registry) -> None:
    def card(text: str, version: Version) -> str:
        return f"{text.split('|')[0]}|{len(version.erasures)}"

    add(registry, "t1")
    erasure = {"time": "2026-01-31T00:00:00+00:00", "examples": 2}
    marked = registry.mark("champion", erasure, card)
    assert registry.mark("v1", erasure, card) == marked == registry.get("v1")
    assert marked.erasures == (erasure,)
    assert (marked.path / "README.md").read_text() == "v1 promoted|1"
    assert add(registry, "t1").erasures == (erasure,)  # publishing again does not wash it off
    assert registry.get("v1").erasures == (erasure,)
    with pytest.raises(RegistryError):
        registry.mark("v9", erasure, card)


def test_versions_from_before_there_were_marks_can_be_read(registry: Registry) -> None:
    version = add(registry, "t1")
    values = json.loads((version.path / "version.json").read_text())
    del values["erasures"]
    (version.path / "version.json").write_text(json.dumps(values))
    assert registry.get("v1") == version


# --- canaries


@pytest.fixture
def two(registry: Registry) -> Registry:
    """v1 is the champion, v2 was rejected, v3 too."""
    add(registry, "t1")
    add(registry, "t2", "rejected", "v1")
    add(registry, "t3", "rejected", "v1")
    return registry


def test_a_canary_has_a_share_beside_the_other_aliases(two: Registry) -> None:
    canary = two.start_canary("candidate", 0.1, by="ana", why="try it")
    assert (canary.version, canary.share) == ("v3", 0.1) and two.canary() == canary
    assert two.aliases() == {"candidate": "v3", "champion": "v1", "canary": "v3"}
    assert two.get("canary").name == "v3" and two.served() == (two.get("v1"), two.get("v3"), canary)
    assert two.stop_canary(by="ana", why="bad", numbers={"p": 0.1}) == canary
    assert two.canary() is None and two.stop_canary() is None
    assert two.history()[-1]["numbers"] == {"p": 0.1}
    assert [h["aliases"].get("canary") for h in two.history()[-2:]] == ["v3", None]
    assert add(two, "t4", "rejected").name == "v4"


def test_starting_what_is_there_changes_nothing_and_another_share_is_another_trial(two: Registry) -> None:
    first = two.start_canary("v2", 0.1)
    changes = len(two.history())
    assert two.start_canary("v2", 0.1) == first and len(two.history()) == changes
    second = two.start_canary("v2", 0.2)
    assert second.started > first.started
    assert two.stop_canary(trial=first.started) is None and two.canary() == second
    assert two.ended(first.started)["aliases"]["canary"]["share"] == 0.2 and two.ended(second.started) == {}
    with pytest.raises(RegistryError, match="over"):
        two.promote("v2", trial=first.started)
    assert two.promote("v2", trial=second.started).name == "v2"
    assert two.aliases() == {"candidate": "v3", "champion": "v2", "previous": "v1"}


@pytest.mark.parametrize(
    ("version", "share", "says"), [("v1", 0.1, "champion"), ("v9", 0.1, "v9"), ("v2", 0, "share"), ("v2", 1, "share")]
)
def test_a_canary_that_makes_no_sense_is_refused(two: Registry, version: str, share: float, says: str) -> None:
    with pytest.raises(RegistryError, match=says):
        two.start_canary(version, share)
    assert two.canary() is None


def test_without_a_champion_or_a_model_there_is_no_canary(registry: Registry) -> None:
    version = add(registry, "t1", "rejected")
    with pytest.raises(RegistryError, match="no champion"):
        registry.start_canary("v1", 0.1)
    registry.promote("v1")
    add(registry, "t2", "rejected").servable.rename(version.path / "lost")
    with pytest.raises(RegistryError, match="cannot be served"):
        registry.start_canary("v2", 0.1)


def test_nobody_goes_back_to_a_version_whose_model_is_gone(two: Registry) -> None:
    two.promote("v2")
    lost = two.get("v1").servable
    lost.rename(lost.with_name("lost"))
    before = two.aliases()
    with pytest.raises(RegistryError, match="v1 has no model"):
        two.rollback()
    assert two.aliases() == before


@pytest.mark.parametrize("change", ["promote", "rollback", "publish"])
def test_another_champion_ends_a_canary(two: Registry, change: str) -> None:
    two.promote("v2")
    two.start_canary("v3", 0.1)
    if change == "promote":
        two.promote("v1")
    elif change == "rollback":
        two.rollback()
    else:
        add(two, "t4", "promoted", "v2")
    assert two.canary() is None and "canary" not in two.aliases()


def test_a_rejected_publication_leaves_the_canary(two: Registry) -> None:
    canary = two.start_canary("v2", 0.1)
    add(two, "t4", "rejected", "v1")
    assert two.canary() == canary


@pytest.mark.parametrize("damage", ['"v2"', "{}", '{"version": "v2"}', "[]", '{"version": "v2", "share": 1, "x": 2}'])
def test_a_damaged_canary_is_named(two: Registry, damage: str) -> None:
    (two.folder / "aliases.json").write_text(f'{{"champion": "v1", "canary": {damage}}}')
    for read in (two.aliases, two.canary, two.served):
        with pytest.raises(RegistryError, match="aliases.json"):
            read()


def test_the_last_line_of_the_history_restores_the_aliases(two: Registry) -> None:
    canary = two.start_canary("v2", 0.1)
    aliases = two.folder / "aliases.json"
    aliases.write_text("{")
    last = (two.folder / "history.jsonl").read_text().splitlines()[-1]
    aliases.write_text(json.dumps(json.loads(last)["aliases"]))
    assert two.canary() == canary
