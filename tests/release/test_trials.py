"""What replicas count in a trial: pooled in the database, each look at it taken once."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from llmops.errors import RegistryError
from llmops.registry.aliases import Canary
from llmops.registry.registry import Registry
from llmops.release import ab_test, canary, rollout, trials
from llmops.release.trials import Sides
from llmops.state.database import database_at

FACTS = ("compared_with", "base_model", "base_revision", "licence", "quantisation", "interval", "run", "dataset")


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return registry_at(tmp_path, f"sqlite:///{tmp_path / 'state.db'}")


def registry_at(tmp_path: Path, url: str) -> Registry:
    """Two versions that the gate passed, v1 the champion."""
    (tmp_path / "servable").mkdir()
    made = Registry(tmp_path / "registry", "bot", database_at(url))
    for n in (1, 2):
        facts = {**dict.fromkeys(FACTS, "x"), "status": "rejected", "compress": f"c{n}"}
        version = made.publish(facts, {"servable": tmp_path / "servable"}, lambda v: {}, by="test", why="")
        # the gate passed it, but it did not become the champion
        made.decide(version.name, "gate", "promoted", by="test", why="passed")
    made.promote("v1")
    return made


def start(registry: Registry, kind: str = "canary") -> Canary:
    return rollout.start(registry, registry.folder / "events", "v2", 0.5, by="t", why="t", kind=kind)  # type: ignore[arg-type]


def some(requests: int, likes: float = 0.5, callers: int = 40, seed: int = 0) -> Sides:
    """As many requests on both sides; the champion's answers are liked half of the time."""
    sides, chance = Sides(), random.Random(seed)
    for name, side, share in (("a", sides.canary, likes), ("b", sides.champion, 0.5)):
        for n in range(requests):
            caller, up = f"{name} {n % callers}", chance.random() < share
            side.add(caller, 1.0, 5, 5)
            side.rate(caller, up=int(up), down=int(not up))
    return sides


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgresql", marks=pytest.mark.service)])
def test_replicas_that_write_at_once_take_each_look_once(
    tmp_path: Path, kind: str, request: pytest.FixtureRequest
) -> None:
    """In any order, and the pool ends with what all have counted."""
    sqlite = f"sqlite:///{tmp_path / 'state.db'}"
    registry = registry_at(tmp_path, sqlite if kind == "sqlite" else request.getfixturevalue("postgresql")())
    trial, grown = start(registry), [some(n) for n in range(1, 31)]

    def replica(number: int) -> list[int]:
        taken = []
        for own in grown:
            written = trials.write(registry, trial, str(number), own)
            assert written
            taken += [written.look] if written.due else []
        return taken

    with ThreadPoolExecutor(4) as pool:
        taken = [look for one in pool.map(replica, range(4)) for look in one]
    assert len(taken) == len(set(taken)) and max(taken) == canary.looks(120)
    pooled = trials.counted(registry, trial.started)
    assert (pooled.canary.requests, pooled.champion.requests) == (120, 120)


def test_what_a_replica_that_is_gone_has_written_stays_in_the_pool_and_nothing_counts_after_the_end(
    registry: Registry,
) -> None:
    trial = start(registry, "ab_test")
    with pytest.raises(RegistryError, match="one trial at a time"):
        start(registry)
    assert registry.canary() == trial and trials.kind_of(registry, trial.started) == "ab_test"
    assert trials.write(registry, trial, "gone", some(7)) and trials.write(registry, trial, "other", some(5))
    rollout.stop(registry, registry.folder / "events", kind="ab_test", by="t", why="enough")
    assert trials.write(registry, trial, "other", some(50)) is None
    assert trials.counted(registry, trial.started).canary.requests == 12


@pytest.mark.parametrize(
    ("likes", "promote", "outcome", "champion"),
    [
        (0.95, True, "won", "v2"), (0.95, False, "won", "v1"),
        (0.05, True, "lost", "v1"), (0.5, True, "inconclusive", "v1"),
    ],
)  # fmt: skip
def test_an_ab_test_is_decided_by_what_users_say_and_switches_nobody_without_that(
    registry: Registry, likes: float, promote: bool, outcome: str, champion: str
) -> None:
    events, trial = registry.folder / "events", start(registry, "ab_test")
    assert trials.write(registry, trial, "one", some(400, likes))
    decision = rollout.conclude(registry, events, trial.started, by="t", promote=promote)
    assert decision["outcome"] == outcome and registry.aliases()["champion"] == champion
    assert registry.canary() is None
    (kept,) = [one for one in registry.decisions("v2") if one["kind"] == "ab_test"]
    assert (kept["outcome"], kept["why"]) == (outcome, decision["why"])
    again = rollout.conclude(registry, events, trial.started, by="t", promote=promote)
    assert again["outcome"] == "over"


def test_an_ab_test_is_due_as_soon_as_somebody_has_won_and_could_be_promoted(registry: Registry) -> None:
    trial = start(registry, "ab_test")
    for asked in (10, 40, 100, 400):
        assert not rollout.due(registry, trial.started, 10**6, 60)
        sides = some(asked, 0.95)
        written = trials.write(registry, trial, "one", sides)
        if written and written.ab_look:
            trials.look_at_ab_test(registry, trial, sides, written.ab_look)
        if ab_test.winner(trials.standing(registry, trial.started)) and asked == 400:
            break  # before that there were too few to be sure that it fails nobody
    assert rollout.due(registry, trial.started, 10**6, 60)
    state = rollout.state(registry)
    assert state and state["kind"] == "ab_test" and "rating" in state["found"]
