"""A share of the callers tries a version; a bad one is taken back, a good one stays, and nobody goes unanswered."""

from __future__ import annotations

import asyncio
import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest

from llmops.registry.aliases import Canary
from llmops.release import rollout
from llmops.release.canary import Figures
from serving.engines.base import TokenIds
from serving.engines.echo import EchoEngine
from serving.errors import EngineDied, PromptRefused, QueueFull, VersionNotLoaded
from serving.models import stream
from serving.models.trial import answered_by_canary


@pytest.fixture
def still(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that stands still: the noise of the machine is not what these tests are about."""
    monkeypatch.setattr(stream, "time", SimpleNamespace(monotonic=lambda: 0.0))


def end(world: Any) -> dict[str, Any]:
    """How the trial ended: the last change in the history, of which there is an event too."""
    change = world.registry.history()[-1]
    (event,) = world.stored("llmops.canary")
    assert "canary" not in change["aliases"] and change["numbers"] == event["llmops.canary.numbers"]
    return change


def test_the_same_callers_are_drawn_again_and_a_larger_share_adds_others() -> None:
    def who(version: str, share: float) -> set[int]:
        return {n for n in range(5000) if answered_by_canary(f"{n:08x}", Canary(version, share, "now"))}

    some, more = who("v2", 0.1), who("v2", 0.3)
    assert some == who("v2", 0.1) < more
    assert len(some) == pytest.approx(500, abs=100) and len(more) == pytest.approx(1500, abs=150)
    assert len(some & who("v3", 0.1)) < 100  # not the same callers try everything


def test_each_caller_stays_on_one_side_and_a_header_forces_the_other(world: Any, still: None) -> None:
    async def test() -> None:
        async with world.models() as models:
            with pytest.raises(VersionNotLoaded):
                models.choose("a", "canary")
            await world.canary(models)
            versions = {caller: await world.ask(models, caller) for caller in map(str, range(40))}
            assert set(versions.values()) == {"v1", "v2"}
            assert versions == {caller: await world.ask(models, caller) for caller in versions}
            for caller in ("0", "1", "2"):
                assert await world.ask(models, caller, "canary") == await world.ask(models, caller, "v2") == "v2"
                assert await world.ask(models, caller, "champion") == await world.ask(models, caller, "v1") == "v1"
            with pytest.raises(VersionNotLoaded, match="v1 and v2"):
                models.choose("a", "v3")
            assert [one.version.name for one in models.loaded] == ["v1", "v2"]
            rollout.stop(world.registry, world.events, by="test", why="enough")
            await world.until(lambda: models.canary is None)
            assert {await world.ask(models, caller) for caller in versions} == {"v1"}
            await world.until(lambda: not world.engines["v2"][0].stats().alive)

    asyncio.run(test())


def test_a_canary_that_fails_is_pulled_and_no_caller_notices(world: Any, still: None) -> None:
    """It fails at the first word, so the champion stands in."""

    async def test() -> None:
        world.make = {"v2": lambda: EchoEngine(token_s=0.002, fail_on="bad"), "v1": lambda: EchoEngine(token_s=0.002)}
        async with world.models() as models:
            async with world.load(models, lambda n: "bad two" if n % 3 == 0 else "one two") as result:
                await world.canary(models, share=0.3)
                await world.until(lambda: world.registry.canary() is None)
                await asyncio.sleep(0.05)
            assert result.failed == []
            assert "v2" in result.answered and set(result.answered[-8:]) == {"v1"}

    asyncio.run(test())
    change = end(world)
    assert change["by"] == "serving" and "errors" in change["numbers"]["worse"]
    assert change["numbers"]["canary"]["failed"] >= 3 and change["numbers"]["champion"]["failed"] == 0


def test_an_answer_that_has_begun_is_not_begun_again(world: Any, still: None) -> None:
    """It fails at the second word: those failures reach their callers, and nothing else does."""

    async def test() -> None:
        world.make = {"v2": lambda: EchoEngine(token_s=0.002, fail_on="bad"), "v1": lambda: EchoEngine(token_s=0.002)}
        async with world.models() as models:
            async with world.load(models, lambda n: "two bad" if n % 3 == 0 else "two good") as result:
                await world.canary(models, share=0.3)
                await world.until(lambda: world.registry.canary() is None)
            assert {str(error) for error in result.failed} == {"The word 'bad' was said."}
            # only what was on its way when it was found is more than what it took to find it
            assert len(result.failed) <= end(world)["numbers"]["canary"]["failed"] + 8

    asyncio.run(test())


def test_a_slow_canary_is_pulled_without_a_failure(world: Any) -> None:
    async def test() -> None:
        world.make = {"v2": lambda: EchoEngine(token_s=0.1), "v1": lambda: EchoEngine(token_s=0.005)}
        async with world.models() as models:
            async with world.load(models) as result:
                await world.canary(models, share=0.3)
                await world.until(lambda: world.registry.canary() is None)
            assert result.failed == []

    asyncio.run(test())
    assert end(world)["numbers"]["worse"] == ["latency"]


def test_a_good_canary_is_promoted_and_not_loaded_again(world: Any, still: None) -> None:
    async def test() -> None:
        world.make = {name: lambda: EchoEngine(token_s=0.001) for name in ("v1", "v2")}
        async with world.models() as models:
            async with world.load(models) as result:
                trial = await world.canary(models, share=0.3)
                assert not rollout.due(world.registry, trial, 60, minutes=60)
                await world.until(lambda: rollout.due(world.registry, trial, 60, minutes=60))
                decision = rollout.conclude(world.registry, world.events, trial, by="test")
                await world.until(lambda: models.champion.version.name == "v2")
                await world.until(lambda: set(result.answered[-8:]) == {"v2"})
            assert decision["outcome"] == "promoted" and result.failed == []
            assert world.registry.aliases() == {"candidate": "v3", "champion": "v2", "previous": "v1"}
            assert len(world.engines["v2"]) == 1 and models.champion.alive and models.canary is None
            await world.until(lambda: not world.engines["v1"][0].stats().alive)

    asyncio.run(test())
    assert end(world)["numbers"]["canary"]["requests"] >= 60


def test_a_canary_whose_engine_dies_is_pulled_and_the_champion_stands_in(world: Any, still: None) -> None:
    async def test() -> None:
        async with world.models() as models:
            await world.canary(models, share=0.999)
            engine = world.engines["v2"][0]
            engine.going.clear()
            waiting = [asyncio.create_task(world.ask(models, str(n))) for n in range(8)]  # too few for a look
            forced = asyncio.create_task(world.ask(models, "0", "canary"))
            await asyncio.sleep(0)
            engine.die(RuntimeError("out of memory"))
            assert await asyncio.gather(*waiting) == ["v1"] * 8
            with pytest.raises(EngineDied):
                await forced
            await world.until(lambda: world.registry.canary() is None)
            assert len(world.engines["v2"]) == 1 and models.reason() == ""

    asyncio.run(test())
    assert "died" in end(world)["why"]


def test_a_canary_that_cannot_be_loaded_is_pulled(world: Any) -> None:
    async def test() -> None:
        world.make = {"v2": lambda: EchoEngine(load_error=MemoryError("no room"))}
        async with world.models() as models:
            rollout.start(world.registry, world.events, "v2", 0.5, by="test", why="try")
            await world.until(lambda: world.registry.canary() is None)
            assert models.reason() == "" and await world.ask(models) == "v1"

    asyncio.run(test())
    assert "loaded" in end(world)["why"]


def test_what_a_canary_has_no_room_for_the_champion_answers_unless_it_was_asked_for(world: Any, still: None) -> None:
    async def test() -> None:
        world.make = {"v2": lambda: EchoEngine(max_queue=0, max_batch=1)}
        async with world.models() as models:
            await world.canary(models, share=0.999)
            engine = world.engines["v2"][0]
            engine.going.clear()
            first = asyncio.create_task(world.ask(models, "0"))
            await asyncio.sleep(0)
            assert await world.ask(models, "1") == "v1"
            with pytest.raises(QueueFull):
                await world.ask(models, "1", "canary")
            with pytest.raises(QueueFull):  # token ids are of one version
                await world.ask(models, "1", prompt=TokenIds((1, 2)))
            engine.going.set()
            assert await first == "v2"

    asyncio.run(test())


def test_what_a_caller_does_wrong_or_forces_does_not_count(world: Any) -> None:
    async def test() -> None:
        world.make = {"v2": lambda: EchoEngine(max_context=3, fail_on="bad")}
        async with world.models() as models:
            await world.canary(models, share=0.999)
            for n in range(30):
                with pytest.raises(RuntimeError):
                    await world.ask(models, str(n), "canary", prompt="bad")
                with pytest.raises(PromptRefused):
                    await world.ask(models, str(n), prompt="one two three four")
            assert models.canary and models._trial.canary.requests == 0

    asyncio.run(test())


def test_what_the_guard_keeps_back_counts(world: Any, still: None, leaking: Any) -> None:
    world.make["v2"] = leaking

    async def test() -> None:
        async with world.models() as models:
            async with world.load(models) as result:
                await world.canary(models, share=0.3)
                while world.registry.canary():
                    await asyncio.sleep(0.01)
            assert result.failed == []

    asyncio.run(test())
    assert "rejections" in end(world)["numbers"]["worse"]


def test_what_is_kept_back_counts_for_the_side_that_answered_and_only_if_nobody_asked_for_it(
    world: Any, still: None, leaking: Any
) -> None:
    world.make |= dict.fromkeys(("v1", "v2"), leaking)

    async def test() -> None:
        async with world.models() as models:
            await world.until(lambda: models._before_of == "v1")
            await world.ask(models, "a")
            await world.ask(models, "a", "champion")
            await world.canary(models, share=0.5)
            versions = [await world.ask(models, str(n)) for n in range(8)]
            trial = models._trial
            assert (trial._before.rejected, trial._before.answered) == (1, 1)
            for version, figures in (("v1", trial.champion), ("v2", trial.canary)):
                assert figures.rejected == figures.answered == versions.count(version) > 0

    asyncio.run(test())


def test_one_replica_pulls_for_all_and_their_counts_are_added(world: Any, still: None) -> None:
    async def test() -> None:
        world.make = {"v2": lambda: EchoEngine(fail_on="bad")}
        async with world.models(replicas=2) as (one, two):
            trial = await world.canary(one, share=0.5)
            await world.until(lambda: two.canary)
            for models in (one, two):
                for n in range(20):
                    await world.ask(models, str(n))
            going = world.registry.canary()
            await world.until(lambda: sum(f.requests for f in rollout.counted(world.registry, going)) == 40)
            async with world.load(one, lambda n: "bad"):
                await world.until(lambda: two.canary is None and one.canary is None)
            assert [len(world.engines[name]) for name in ("v1", "v2")] == [2, 2]
            decision = rollout.conclude(world.registry, world.events, trial, by="test")
            assert decision["outcome"] == "over" and "errors" in decision["why"]

    asyncio.run(test())
    end(world)


def test_another_trial_of_the_same_version_begins_at_nothing(world: Any, still: None) -> None:
    async def test() -> None:
        async with world.models() as models:
            first = await world.canary(models, share=0.5)
            assert rollout.start(world.registry, world.events, "v2", 0.5, by="test", why="again").started == first
            for n in range(20):
                await world.ask(models, str(n))
            second = rollout.start(world.registry, world.events, "v2", 0.6, by="test", why="more").started
            await world.until(lambda: models._trial and models._trial.registered.started == second)
            assert models._trial.canary.requests == 0 and len(world.engines["v2"]) == 1
            assert not rollout.pull(world.registry, world.events, Canary("v2", 0.5, first), "late", {})
            assert models.canary

    asyncio.run(test())


@pytest.mark.parametrize(
    ("requests", "failed", "outcome"), [(5, 0, "inconclusive"), (60, 0, "promoted"), (60, 20, "worse")]
)
def test_a_trial_is_concluded_by_what_was_counted(world: Any, requests: int, failed: int, outcome: str) -> None:
    trial = rollout.start(world.registry, world.events, "v2", 0.1, by="test", why="try")
    canary, champion = Figures(answered=requests - failed, failed=failed), Figures(answered=500)
    rollout.count(world.registry, trial, "a", canary, champion)
    assert rollout.due(world.registry, trial.started, 60, 60) == (requests >= 60)
    assert rollout.due(world.registry, trial.started, 1000, minutes=0)
    decision = rollout.conclude(world.registry, world.events, trial.started, by="run 1")
    assert decision["outcome"] == outcome and decision["numbers"]["canary"]["requests"] == requests
    assert world.registry.aliases()["champion"] == ("v2" if outcome == "promoted" else "v1")
    assert end(world)["by"] == "run 1"
    again = rollout.conclude(world.registry, world.events, trial.started, by="run 1")
    assert again["outcome"] == "over" and again["why"].endswith(decision["why"])
    assert rollout.due(world.registry, trial.started, 1000, 60) and rollout.state(world.registry) is None


def test_a_registry_that_cannot_be_written_still_stops_the_canary(
    world: Any, still: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = threading.Event()
    broken.set()
    stop = world.registry.stop_canary

    def sometimes(**options: Any) -> Any:
        if broken.is_set():
            raise OSError("read-only file system")
        return stop(**options)

    monkeypatch.setattr(world.registry, "stop_canary", sometimes)

    async def test() -> None:
        world.make = {"v2": lambda: EchoEngine(fail_on="bad")}
        async with world.models() as models, world.load(models, lambda n: "bad") as result:
            await world.canary(models, share=0.5)
            await world.until(lambda: models.canary is None)
            seen, began = len(result.answered), time.monotonic()
            await world.until(lambda: len(result.answered) > seen + 50 and time.monotonic() > began + 0.1)
            assert "written" in models.reason()
            assert "file system" in models.cause() and "file system" not in models.reason()
            assert set(result.answered[seen + 8 :]) == {"v1"} and world.registry.canary()
            broken.clear()
            await world.until(lambda: world.registry.canary() is None)
            await world.until(lambda: not models.reason())

    asyncio.run(test())
