"""What replicas count in a trial: pooled in the database, each look at it taken once."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from llmops.config import Config
from llmops.frame.errors import RegistryError
from llmops.release import rollout, trials
from llmops.release.registry.aliases import Canary
from llmops.release.registry.registry import Registry
from llmops.release.trials import TrialCounts
from llmops.release.verdict import count_looks
from llmops.state.tables import trial_counts

from .conftest import two_versions


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return two_versions(Config(home=tmp_path))


def start(registry: Registry, kind: str = "canary") -> Canary:
    return rollout.start(registry, registry.folder / "events", "v2", 0.5, by="t", why="t", kind=kind)  # type: ignore[arg-type]


def some(requests: int) -> TrialCounts:
    sides = TrialCounts()
    for name, side in (("a", sides.canary), ("b", sides.champion)):
        for n in range(requests):
            side.add(f"{name} {n % 40}", 1.0, 5, 5)
    return sides


def test_replicas_that_write_at_once_take_each_look_once(tmp_path: Path, database_url: str) -> None:
    """In any order, and the pool ends with what all have counted."""
    registry = two_versions(Config(home=tmp_path, state={"url": database_url}))
    trial, grown = start(registry), [some(n) for n in range(1, 31)]

    def replica(number: int) -> list[int]:
        taken = []
        for own in grown:
            written = trials.write_counts(registry, trial, str(number), own)
            assert written
            taken += [written.look] if written.look_due else []
        return taken

    with ThreadPoolExecutor(4) as pool:
        taken = [look for one in pool.map(replica, range(4)) for look in one]
    assert len(taken) == len(set(taken)) and max(taken) == count_looks(120)
    pooled = trials.read_counts(registry, trial.started)
    assert (pooled.canary.requests, pooled.champion.requests) == (120, 120)


def test_what_a_replica_that_is_gone_has_written_stays_and_nothing_counts_after_the_end(registry: Registry) -> None:
    trial = start(registry, "ab_test")
    with pytest.raises(RegistryError, match="one trial at a time"):
        start(registry)
    assert registry.canary() == trial and trials.read_kind(registry, trial.started) == "ab_test"
    assert all(trials.write_counts(registry, trial, name, some(n)) for name, n in (("gone", 7), ("other", 5)))
    rollout.stop(registry, registry.folder / "events", kind="ab_test", by="t", why="enough")
    assert trials.write_counts(registry, trial, "other", some(50)) is None
    assert trials.read_counts(registry, trial.started).canary.requests == 12


@pytest.mark.parametrize(
    "counts", [{}, {"canary": {}}, {"canary": [], "champion": {}}, [], {"canary": {"1": {"up": []}}}]
)
def test_damaged_counts_say_how_to_end_the_trial(registry: Registry, counts: object) -> None:
    trial = start(registry)
    assert trials.write_counts(registry, trial, "one", some(1))
    with registry.database.change() as connection:
        connection.execute(trial_counts.update().values(counts=counts))
    with pytest.raises(RegistryError, match="damaged.*--stop"):
        rollout.describe_trial(registry)
