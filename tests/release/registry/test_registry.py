"""Versions, aliases that move together, and what a crash leaves behind."""

import contextlib
import random
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import sqlalchemy as sa

from llmops.frame.errors import RegistryError
from llmops.release.registry.registry import Registry
from llmops.release.registry.version import Version, build_partial
from llmops.state.database import Database, database_at
from llmops.state.tables import audit, trials
from tests.release.conftest import facts

Patch = pytest.MonkeyPatch
TREES = ("adapter", "servable")


def add(
    registry: Registry,
    train: str,
    status: str = "promoted",
    against: str = "base",
    canary: float = 0.0,
    **documents: str,
) -> Version:
    source = registry.folder.parent / "artifacts" / train
    for name in TREES:
        (source / name).mkdir(parents=True, exist_ok=True)
        (source / name / "weights.bin").write_text(f"{name} of {train}")
    known = facts(status=status, compared_with=against, compress=train)

    def texts(version: Version) -> Mapping[str, str]:
        return {"README.md": f"{version.name} {version.status}", **documents}

    trees = {name: source / name for name in TREES}
    return registry.publish(known, trees, texts, by="test", why=f"publish {train}", canary=canary)


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path, "bot", database_at(f"sqlite:///{tmp_path / 'state.db'}"))


def test_a_candidate_whose_opponent_lost_its_model_meets_todays_champion(registry: Registry, tmp_path: Path) -> None:
    for n, against in enumerate(("base", "v1", "v2"), 1):
        add(registry, f"t{n}", against=against)
    versions = registry.folder / "versions"
    assert registry.find_opponent("t2") == versions / "v1"
    assert registry.retire("v1", TREES, tmp_path / "trash", by="test", why="old")
    assert registry.get("v1").removed_at and not registry.get("v1").servable.exists()
    assert registry.find_opponent("t2") == versions / "v3"
    assert registry.retire("v2", TREES, tmp_path / "trash 2", by="test", why="old") is False  # `previous`
    assert registry.find_opponent("t3") == versions / "v2" and registry.find_opponent("t1") is None
    registry.promote("v2")
    assert registry.find_opponent("t2") == versions / "v1"  # never itself
    (versions / "v3" / "gone.json").write_text('{"removed": "2026-01-31"}')  # killed before the model was taken
    assert registry.get("v3").removed_at == ""
    add(registry, "t1")  # published again, it has its model
    assert registry.get("v1").servable.is_dir() and not registry.get("v1").removed_at
    assert [row.action for row in audited(registry) if row.target == "v1"].count("retire") == 1


def audited(registry: Registry) -> list[Any]:
    with registry.database.read() as connection:
        return list(connection.execute(sa.select(audit)))


def test_promotion_and_rollback_move_all_aliases_and_a_rerun_undoes_neither(registry: Registry) -> None:
    version = add(registry, "t1")
    assert registry.champion() == registry.get("champion") == registry.get("v1") == version
    assert (version.path / "adapter" / "weights.bin").read_text() == "adapter of t1"
    registry.promote("v1")  # it is the champion already
    assert registry.aliases() == {"candidate": "v1", "champion": "v1"} and len(registry.history()) == 1
    add(registry, "t2", "promoted", "v1")
    assert registry.aliases() == {"candidate": "v2", "champion": "v2", "previous": "v1"}
    assert registry.rollback(by="ana", why="bad answers").name == "v1"
    assert add(registry, "t2", "promoted", "v1") == registry.get("v2")
    assert registry.aliases() == {"candidate": "v2", "champion": "v1", "previous": "v2"}
    registry.rollback()
    assert registry.champion() == registry.get("v2") and len(registry.versions()) == 2
    changes = [(h["by"], h["aliases"]["champion"]) for h in registry.history()]
    assert changes == [("test", "v1"), ("test", "v2"), ("ana", "v1"), ("admin", "v2")]
    assert registry.history()[2]["why"] == "bad answers"
    assert [(row.action, row.by) for row in audited(registry)][-2:] == [("rollback", "ana"), ("rollback", "admin")]


def test_a_promotion_over_a_champion_of_yesterday_does_not_count(registry: Registry) -> None:
    add(registry, "t1")
    add(registry, "t2", "promoted", "v1")
    late = add(registry, "t3", "promoted", "v1")
    assert (late.status, late.compared_with) == ("inconclusive", "")
    assert registry.aliases() == {"candidate": "v3", "champion": "v2", "previous": "v1"}
    assert registry.find_opponent("t3") == registry.get("v2").path  # it must be compared again, with today's
    assert add(registry, "t3", "promoted", "v2").status == "promoted"
    assert registry.aliases()["champion"] == "v3"


def test_a_champion_that_comes_while_a_version_is_built_counts_and_is_told(two: Registry, monkeypatch: Patch) -> None:
    def slow(*given: Any) -> Path:
        two.promote("v2")
        return build_partial(*given)

    monkeypatch.setattr("llmops.release.registry.registry.build_partial", slow)
    late = add(two, "t4", "promoted", "v1")
    assert (late.status, two.aliases()["champion"]) == ("inconclusive", "v2")
    assert (late.path / "README.md").read_text() == "v4 inconclusive"


def test_the_opponent_of_decided_training_stays_what_it_was(registry: Registry) -> None:
    add(registry, "t1")
    assert registry.find_opponent("t1") is None  # the base model, though v1 is champion now
    assert registry.find_opponent("t2") == registry.get("v1").path
    add(registry, "t2", "promoted", "v1")
    for _ in range(2):
        assert registry.find_opponent("t2") == registry.get("v1").path
        assert registry.find_opponent("t1") is None
        registry.rollback()  # a day without change compares nothing anew, whichever version answers
    registry.get("v1").path.rename(registry.folder / "gone")
    assert registry.find_opponent("t2") == registry.folder / "versions" / "v1"


@pytest.mark.parametrize(("owner", "step"), [(Path, "rename"), (Registry, "_move")])
def test_a_crash_is_mended_by_the_rerun(registry: Registry, monkeypatch: Patch, owner: type, step: str) -> None:
    add(registry, "t1")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(owner, step, Mock(side_effect=KeyboardInterrupt))
        add(registry, "t2", "promoted", "v1")
    assert [v.name for v in registry.versions()] == (["v1"] if owner is Path else ["v1", "v2"])
    assert registry.aliases() == {"candidate": "v1", "champion": "v1"}
    assert registry.find_opponent("t2") == registry.get("v1").path
    assert add(registry, "t2", "promoted", "v1").name == "v2"
    assert registry.aliases() == {"candidate": "v2", "champion": "v2", "previous": "v1"}
    assert sorted(p.name for p in (registry.folder / "versions").iterdir()) == ["v1", "v2"]


def test_ten_comes_after_nine_and_no_number_is_used_again(registry: Registry) -> None:
    for n in range(11):
        add(registry, f"t{n}", "rejected")
    assert [v.name for v in registry.versions()] == [f"v{n}" for n in range(1, 12)]
    assert registry.aliases() == {"candidate": "v11"}
    registry.get("v11").path.rename(registry.folder / "gone")
    assert add(registry, "t12", "rejected").name == "v12"


def test_copies_where_hard_links_do_not_work(registry: Registry, monkeypatch: Patch) -> None:
    monkeypatch.setattr("os.link", Mock(side_effect=OSError("cross-device link")))
    assert (add(registry, "t1").servable / "weights.bin").read_text() == "servable of t1"


def test_only_names_of_versions_are_taken_and_damage_is_named(registry: Registry) -> None:
    file = add(registry, "t1").path / "version.json"
    for name in ("../v1", "v1/..", "", "v01"):
        with pytest.raises(RegistryError):
            registry.get(name)
    file.write_text('{"name": "v1"}')
    with pytest.raises(RegistryError, match="damaged"):
        registry.get("v1")


# --- canaries


@pytest.fixture
def two(registry: Registry) -> Registry:
    """v1 is the champion; v2 and v3 have passed the gate, too, but were not to become it."""
    add(registry, "t1")
    for train in ("t2", "t3"):
        passed(registry, add(registry, train, "rejected", "v1"))
    return registry


def passed(registry: Registry, version: Version) -> Version:
    registry.decide(version.name, "gate", "promoted", by="test", why="passed")
    return version


def test_starting_what_is_there_changes_nothing_and_another_share_is_another_trial(two: Registry) -> None:
    for version, share, says in (("v1", 0.1, "champion"), ("v9", 0.1, "v9"), ("v2", 0, "share"), ("v2", 1, "share")):
        with pytest.raises(RegistryError, match=says):
            two.start_canary(version, share)
    first = two.start_canary("v2", 0.1)
    assert two.read_served() == (two.get("v1"), two.get("canary"), first) and first.version == "v2"
    changes = len(two.history())
    assert two.start_canary("v2", 0.1) == first and len(two.history()) == changes
    second = two.start_canary("v2", 0.2)
    assert second.started > first.started
    add(two, "t4", "rejected", "v1")
    assert two.stop_canary(trial=first.started) is None and two.canary() == second
    assert two.find_end(first.started)["aliases"]["canary"]["share"] == 0.2 and two.find_end(second.started) == {}
    with pytest.raises(RegistryError, match="over"):
        two.promote("v2", trial=first.started)
    assert two.promote("v2", trial=second.started, override="nobody needs this reason").name == "v2"
    assert two.overrides() == {} and "override" not in two.history()[-1]
    assert two.aliases() == {"candidate": "v4", "champion": "v2", "previous": "v1"}


def test_the_reason_for_a_trial_that_goes_on_is_in_history_and_audit(two: Registry) -> None:
    going = two.start_canary("v2", 0.1)
    two.decide("v2", "gate", "rejected", by="test", why="judged again")
    changes, rows = len(two.history()), len(audited(two))
    assert two.start_canary("v2", 0.1, by="ana", override="our largest customer asks for it") == going
    assert (len(two.history()), len(audited(two))) == (changes + 1, rows + 1)
    assert audited(two)[-1].fields["override"] == "our largest customer asks for it"


@pytest.mark.parametrize("change", ["promote", "rollback", "publish"])
def test_another_champion_ends_a_canary(two: Registry, change: str) -> None:
    two.promote("v2")
    two.start_canary("v3", 0.1)
    changes = {"promote": lambda: two.promote("v1"), "rollback": two.rollback}
    changes.get(change, lambda: add(two, "t4", "promoted", "v2"))()
    assert two.canary() is None and "canary" not in two.aliases()


# --- overrides and decisions


def test_what_the_gate_did_not_pass_needs_a_reason_that_is_kept(registry: Registry) -> None:
    add(registry, "t1", "rejected")
    with pytest.raises(RegistryError, match="no champion"):
        registry.start_canary("v1", 0.1)
    for reason in ("a\nb", "x" * 501, "\x1b[2J", "\u3164\u3164"):
        with pytest.raises(RegistryError, match="reason"):
            registry.promote("v1", override=reason)
    assert registry.aliases() == {"candidate": "v1"}
    registry.promote("candidate", by="ana", override="we need one")
    assert registry.aliases() == {"candidate": "v1", "champion": "v1"}
    add(registry, "t2", "inconclusive", "v1")
    for ask in (registry.promote, lambda name: registry.start_canary(name, 0.1)):
        with pytest.raises(RegistryError, match="v2 is inconclusive by the gate: publish t2.*--override"):
            ask("candidate")
    before, why = len(registry.history()), "our largest customer asks for it"
    canary = registry.start_canary("v2", 0.1, by="ana", override=f" {why} ")
    assert registry.canary() == canary and registry.overrides()["v2"] == why
    assert registry.promote("v2", trial=canary.started, by="run 1").name == "v2"  # the trial's override goes on
    assert [h["override"] for h in registry.history()[before:]] == [why] * 2
    rows = [(d["kind"], d["outcome"], d["by"]) for d in registry.decisions("v2")]
    assert rows == [("gate", "inconclusive", "test"), ("override", "canary", "ana"), ("override", "champion", "run 1")]


def test_the_gates_decision_is_kept_once_however_often_it_is_published(registry: Registry) -> None:
    for _ in range(3):
        add(registry, "t1")
    add(registry, "t2", "rejected", "v1")
    registry.decide("v2", "ab_test", "better", by="ana", why="ratings", numbers={"p": 0.01})
    found = [(d["version"], d["kind"], d["outcome"]) for d in registry.decisions()]
    assert found == [("v1", "gate", "promoted"), ("v2", "gate", "rejected"), ("v2", "ab_test", "better")]
    assert registry.decisions("v2")[-1]["numbers"] == {"p": 0.01}


def test_with_a_canary_first_only_its_trial_makes_a_champion(registry: Registry) -> None:
    def publish(train: str, against: str) -> Version:
        return add(registry, train, "promoted", against, canary=0.2)

    publish("t1", "base")
    assert registry.aliases()["champion"] == "v1"  # there was none to compare it with
    publish("t2", "v1")
    canary = registry.canary()
    assert canary and (canary.version, canary.share) == ("v2", 0.2) and registry.aliases()["champion"] == "v1"
    publish("t2", "v1")
    assert registry.canary() == canary  # a re-run does not begin it anew
    publish("t3", "v1")
    assert registry.canary() == canary and registry.aliases()["candidate"] == "v3"  # nor does the next one disturb it
    registry.stop_canary(trial=canary.started, outcome="regression")
    publish("t2", "v1")
    assert registry.canary() is None  # it had its trial
    assert publish("t3", "v1").name == "v3" and registry.aliases()["canary"] == "v3"


@pytest.mark.parametrize("left", range(4))
def test_killed_anywhere_in_a_change_nothing_of_it_is_left(two: Registry, left: int) -> None:
    """Only COMMIT counts: who dies after any statement before it has done nothing; a real kill is in `state`."""
    before, seen = (two.aliases(), two.history()), list[str]()

    def after(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith(("INSERT", "DELETE", "UPDATE")):
            seen.append(statement)
            if len(seen) > left:
                raise KeyboardInterrupt

    sa.event.listen(sa.Engine, "after_cursor_execute", after)
    try:
        with pytest.raises(KeyboardInterrupt):
            two.start_canary("v2", 0.1)
    finally:
        sa.event.remove(sa.Engine, "after_cursor_execute", after)
    assert (two.aliases(), two.history()) == before
    assert two.start_canary("v2", 0.1).version == "v2"


def test_random_orders_by_several_at_once_never_leave_or_show_a_half(two: Registry) -> None:
    """Whatever was done in which order, aliases are those of the last change, and each change has its row of audit."""

    def stir(seed: int) -> None:
        registry, chance = Registry(two.folder.parent, "bot", Database(two.database.url)), random.Random(seed)
        acts = [registry.promote, lambda name: registry.start_canary(name, chance.choice([0.1, 0.2]))]
        acts += [lambda _: registry.stop_canary(), lambda _: registry.rollback()]
        for _ in range(15):
            with contextlib.suppress(RegistryError):
                chance.choice(acts)(chance.choice(["v1", "v2", "v3"]))
        add(registry, f"t{4 + seed % 2}", "rejected", "v1")

    with ThreadPoolExecutor(3) as pool:
        stirring = [pool.submit(stir, seed) for seed in range(3)]
        while not all(one.done() for one in stirring):
            seen = two.aliases()
            assert seen in [change["aliases"] for change in two.history()]
    assert [one.exception() for one in stirring] == [None] * 3
    assert sorted(v.compress for v in two.versions()) == ["t1", "t2", "t3", "t4", "t5"]
    history = two.history()
    assert two.aliases() == history[-1]["aliases"] and len(history) > 10
    assert len(audited(two)) == len(history)
    with two.database.read() as connection:
        going = connection.scalars(sa.select(trials.c.version).where(trials.c.ended.is_(None))).all()
    assert list(going) == [v for alias, v in two.aliases().items() if alias == "canary"]
    assert all(h["aliases"].get("canary") != h["aliases"]["champion"] for h in history)
