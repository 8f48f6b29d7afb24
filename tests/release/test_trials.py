"""What replicas count in a trial: pooled in the database, each look at it taken once."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from llmops.config import Config
from llmops.errors import RegistryError
from llmops.registry.aliases import Canary
from llmops.registry.registry import Registry
from llmops.release import canary, rollout, trials
from llmops.release.trials import Sides

from .conftest import two_versions


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return two_versions(Config(home=tmp_path))


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
    url = "" if kind == "sqlite" else request.getfixturevalue("postgresql")()
    registry = two_versions(Config(home=tmp_path, state={"url": url}))
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


def test_an_ab_test_is_decided_by_what_users_say_and_switches_nobody_without_that(registry: Registry) -> None:
    cases = ((0.05, True, "lost"), (0.5, True, "inconclusive"), (0.95, False, "won"), (0.95, True, "won"))
    for likes, promote, outcome in cases:
        assert registry.aliases()["champion"] == "v1"
        events, trial = registry.folder / "events", start(registry, "ab_test")
        assert trials.write(registry, trial, "one", some(400, likes))
        decision = rollout.conclude(registry, events, trial.started, by="t", promote=promote)
        kept = registry.decisions("v2")[-1]
        assert kept["outcome"] == decision["outcome"] == outcome and kept["why"] == decision["why"]
        assert registry.canary() is None and kept["kind"] == "ab_test"
    assert registry.aliases()["champion"] == "v2"


def test_an_ab_test_is_due_as_soon_as_somebody_has_won_and_could_be_promoted(registry: Registry) -> None:
    trial, sides = start(registry, "ab_test"), some(400, 0.95)
    assert not rollout.due(registry, trial.started, 10**6, 60)
    written = trials.write(registry, trial, "one", sides)
    assert written and written.ab_look
    trials.look_at_ab_test(registry, trial, sides, written.ab_look)
    assert rollout.due(registry, trial.started, 10**6, 60)
    state = rollout.state(registry)
    assert state and state["kind"] == "ab_test" and "rating" in state["found"]
