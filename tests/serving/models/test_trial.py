"""A share of the callers tries a version; a bad one is taken back, a good one stays, and nobody goes unanswered."""

from __future__ import annotations

import asyncio
import random
import shutil
import threading
import time
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from llmops.errors import StateUnavailable
from llmops.registry.aliases import Canary
from llmops.release import rollout, trials
from llmops.release.figures import Figures
from llmops.release.trials import Sides
from serving.engines.base import EngineRequest, Question, TokenIds
from serving.engines.echo import EchoEngine
from serving.errors import ClientLeft, EngineDied, PromptRefused, QueueFull, VersionNotLoaded
from serving.guard import Guard
from serving.models import stream
from serving.models import trial as trial_module
from serving.models.trial import answered_by_canary
from serving.models.turns import Turns
from serving.models.watcher import Models


@pytest.fixture
def still(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that stands still: the noise of the machine is not what these tests are about."""
    monkeypatch.setattr(stream, "time", SimpleNamespace(monotonic=lambda: 0.0))
    monkeypatch.setattr(trial_module, "WRITE_S", 0.0)


def side(asked: int, failed: int = 0, name: str = "canary") -> Figures:
    """Figures of as many callers as requests, the first of which failed."""
    made = Figures()
    for n in range(asked):
        if n < failed:
            made.fail(f"{name} {n}")
        else:
            made.add(f"{name} {n}", 1.0, 5, 5)
    return made


def requests(sides: Sides) -> int:
    return sides.canary.requests + sides.champion.requests


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
            with pytest.raises(VersionNotLoaded, match="v1, v2"):
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
    assert "latency" in end(world)["numbers"]["worse"]


def test_a_good_canary_is_promoted_and_not_loaded_again(world: Any, still: None) -> None:
    async def test() -> None:
        world.make = {name: lambda: EchoEngine(token_s=0.001) for name in ("v1", "v2")}
        async with world.models() as models:
            async with world.load(models) as result:
                trial = await world.canary(models, share=0.3)
                assert not rollout.due(world.registry, trial, 250, minutes=60)
                await world.until(lambda: rollout.due(world.registry, trial, 250, minutes=60))
                decision = rollout.conclude(world.registry, world.events, trial, by="test")
                await world.until(lambda: models.champion.version.name == "v2")
                await world.until(lambda: set(result.answered[-8:]) == {"v2"})
            assert decision["outcome"] == "promoted" and result.failed == []
            assert world.registry.aliases() == {"candidate": "v3", "champion": "v2", "previous": "v1"}
            assert len(world.engines["v2"]) == 1 and models.champion.alive and models.canary is None
            await world.until(lambda: not world.engines["v1"][0].stats().alive)

    asyncio.run(test())
    assert end(world)["numbers"]["canary"]["requests"] >= 250


def test_a_canary_whose_engine_dies_is_pulled_and_the_champion_stands_in(world: Any, still: None) -> None:
    async def test() -> None:
        async with world.models() as models:
            await world.canary(models, share=0.999999)
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


@pytest.mark.parametrize("running", [False, True])
def test_a_canary_whose_folder_is_gone_is_pulled_and_takes_the_champion_from_nobody(world: Any, running: bool) -> None:
    async def test() -> None:
        if running:
            async with world.models() as models:
                await world.canary(models)
                await world.until(lambda: models.canary)
                shutil.rmtree(world.registry.get("v2").path)
                await world.until(lambda: world.registry.canary() is None)
                assert models.reason() == "" and await world.ask(models) == "v1"
        else:
            rollout.start(world.registry, world.events, "v2", 0.5, by="test", why="try")
            shutil.rmtree(world.registry.get("v2").path)
            async with world.models() as models:  # a replica that starts
                await world.until(lambda: world.registry.canary() is None)
                assert models.reason() == "" and await world.ask(models) == "v1"

    asyncio.run(test())
    assert "loaded" in end(world)["why"]


def test_an_app_that_takes_no_part_in_trials_neither_loads_nor_pulls_a_canary(world: Any) -> None:
    async def test() -> None:
        world.make = {"v2": lambda: EchoEngine(load_error=MemoryError("no room"))}
        proof = Models(world.registry, world.engine, 0.01, world.events, Guard(("SECRET",)), trials=False)
        rollout.start(world.registry, world.events, "v2", 0.5, by="test", why="try")
        proof.start()
        await world.until(lambda: proof.champion)
        await asyncio.sleep(0.1)
        assert "v2" not in world.engines and await world.ask(proof) == "v1"
        assert world.registry.canary()
        world.registry.promote("v3")  # it follows the champion all the same
        await world.until(lambda: proof.champion.version.name == "v3")
        await proof.stop()

    asyncio.run(test())


def test_what_a_canary_has_no_room_for_the_champion_answers_unless_it_was_asked_for(world: Any, still: None) -> None:
    async def test() -> None:
        world.make = {"v2": lambda: EchoEngine(max_queue=0, max_batch=1)}
        async with world.models() as models:
            await world.canary(models, share=0.999999)
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


def test_who_has_to_give_a_place_in_the_canarys_queue_is_answered_by_the_champion(world: Any, still: None) -> None:
    async def test() -> None:
        world.make = {"v2": lambda: Turns(EchoEngine(3, 1), 3, 1)}
        async with world.models() as models:
            await world.canary(models, share=0.999999)
            engine = world.engines["v2"][0]._engine
            engine.going.clear()
            asking = [asyncio.create_task(world.ask(models, "0")) for _ in range(4)]
            await asyncio.sleep(0)
            asking.append(asyncio.create_task(world.ask(models, "1")))
            await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
            assert [one.done() for one in asking] == [False, False, False, True, False]
            engine.going.set()
            assert await asyncio.gather(*asking) == ["v2", "v2", "v2", "v1", "v2"]

    asyncio.run(test())


def test_what_a_full_canary_hands_on_counts_for_it_until_it_is_pulled(world: Any, still: None) -> None:
    async def test() -> None:
        world.make = {"v2": lambda: EchoEngine(max_queue=0, max_batch=1)}
        async with world.models() as models:
            await world.canary(models, share=0.5)
            engine = world.engines["v2"][0]
            engine.going.clear()
            kept = asyncio.create_task(world.ask(models, "0", "canary"))
            await asyncio.sleep(0)
            async with world.load(models) as result:
                await world.until(lambda: models.canary is None)
            assert result.failed == [] and set(result.answered) == {"v1"}
            engine.going.set()
            await kept
            await world.until(lambda: world.registry.canary() is None)

    asyncio.run(test())
    assert end(world)["numbers"]["worse"] == ["no room"]


def test_a_request_that_is_given_up_counts_as_such_and_one_begun_before_the_trial_does_not(
    world: Any, still: None
) -> None:
    async def test() -> None:
        async with world.models() as models:
            await world.until(lambda: models._before_of == "v1")
            world.engines["v1"][0].going.clear()
            early = [asyncio.create_task(world.ask(models, str(n))) for n in range(8)]
            await asyncio.sleep(0)
            await world.canary(models, share=0.5)
            world.engines["v2"][0].going.clear()
            streams = [models.generate(EngineRequest(Question("one"), 5), caller=str(n))[1] for n in range(8)]
            readers = [asyncio.create_task(stream.whole()) for stream in streams]
            await asyncio.sleep(0)
            for stream in streams:
                stream.push(ClientLeft())
                stream.cancel()
            for one in await asyncio.gather(*readers, return_exceptions=True):
                assert isinstance(one, ClientLeft)
            for engines in world.engines.values():
                engines[0].going.set()
            assert await asyncio.gather(*early) == ["v1"] * 8
            own = models._trial.own
            assert own.canary.total("left") + own.champion.total("left") == 8 and own.canary.total("left") > 0
            assert requests(own) == 8 and own.before.answered == 8

    asyncio.run(test())


def test_what_a_caller_does_wrong_or_forces_does_not_count(world: Any) -> None:
    async def test() -> None:
        world.make = {
            "v1": lambda: EchoEngine(max_context=3),
            "v2": lambda: EchoEngine(max_context=3, fail_on="bad"),
        }
        async with world.models() as models:
            await world.canary(models, share=0.999999)
            for n in range(30):
                with pytest.raises(RuntimeError):
                    await world.ask(models, str(n), "canary", prompt="bad")
                with pytest.raises(PromptRefused):
                    await world.ask(models, str(n), prompt="one two three four")
            assert models.canary and models._trial.own.canary.requests == 0

    asyncio.run(test())


def test_what_only_the_canary_refuses_the_champion_answers_and_it_counts(world: Any, still: None) -> None:
    async def test() -> None:
        world.make = {"v2": lambda: EchoEngine(max_context=3)}
        async with world.models() as models:
            async with world.load(models, lambda n: "one two three four" if n % 3 == 0 else "one two") as result:
                await world.canary(models)
                await world.until(lambda: world.registry.canary() is None)
            assert result.failed == []

    asyncio.run(test())
    assert "errors" in end(world)["numbers"]["worse"]


def test_what_the_canarys_engine_does_not_offer_the_champion_answers_and_it_counts_nowhere(world: Any) -> None:
    class Few(EchoEngine):
        alternatives = False

    async def test() -> None:
        world.make = {"v2": Few}
        asked = [EngineRequest(Question("one two"), 5, schema="{}"), EngineRequest(Question("one two"), 5, logprobs=3)]

        async def answered(n: int, **more: Any) -> str:
            _, stream = models.generate(asked[n % 2], caller=str(n), **more)
            await stream.whole()
            return stream.version.name

        async with world.models() as models:
            await world.canary(models, share=0.999999)
            world.engines["v1"][0].structured = True
            assert {await answered(n) for n in range(30)} == {"v1"}
            for n in range(2):
                with pytest.raises(PromptRefused, match="engine"):
                    await answered(n, side="canary")
            own = models._trial.own
            assert models.canary and own.canary.requests == 0 and own.canary.total("failed") == 0

    asyncio.run(test())


def test_a_refused_prompt_that_the_champion_is_not_waited_for_counts_nowhere(world: Any, still: None) -> None:
    async def test() -> None:
        world.make = {"v2": lambda: EchoEngine(max_context=3)}
        async with world.models() as models:
            await world.canary(models, share=0.999999)
            world.engines["v1"][0].going.clear()
            _, stream = models.generate(EngineRequest(Question("one two three four"), 5), caller="a")
            reader = asyncio.create_task(stream.whole())
            await world.until(lambda: stream.version.name == "v1")
            stream.push(ClientLeft())
            stream.cancel()
            with pytest.raises(ClientLeft):
                await reader
            world.engines["v1"][0].going.set()
            assert requests(models._trial.own) == 0

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
            assert (trial.own.before.rejected, trial.own.before.answered) == (1, 1)
            for version, figures in (("v1", trial.own.champion), ("v2", trial.own.canary)):
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
            await world.until(lambda: requests(trials.counted(world.registry, trial)) == 40)
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
            assert models._trial.own.canary.requests == 0 and len(world.engines["v2"]) == 1
            assert not rollout.pull(world.registry, world.events, Canary("v2", 0.5, first), "late", {})
            assert models.canary

    asyncio.run(test())


@pytest.mark.parametrize(
    ("asked", "failed", "outcome"),
    [
        (5, 0, "inconclusive"),
        (60, 0, "inconclusive"),
        (200, 0, "promoted"),
        (200, 20, "worse"),
        (30, 3, "worse"),
    ],
)
def test_a_trial_is_concluded_by_what_was_counted(world: Any, asked: int, failed: int, outcome: str) -> None:
    trial = rollout.start(world.registry, world.events, "v2", 0.1, by="test", why="try")
    counted = Sides(side(asked, failed), side(1000, name="champion"))
    trials.write(world.registry, trial, "a", counted)
    assert rollout.due(world.registry, trial.started, 60, 60) == (asked >= 60)
    assert rollout.due(world.registry, trial.started, 1000, minutes=0)
    decision = rollout.conclude(world.registry, world.events, trial.started, by="run 1")
    assert decision["outcome"] == outcome and decision["numbers"]["canary"]["requests"] == asked
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


def test_while_the_database_is_away_the_app_serves_and_goes_on_with_its_own_counts(
    world: Any, still: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is counted meanwhile is in the pool once it is back; a canary that fails meanwhile is asked no more."""
    away, database = threading.Event(), world.registry.database

    def sometimes(work: Callable[[], Any]) -> Any:
        if away.is_set():
            raise StateUnavailable("The database is away.")
        return work()

    for name in ("change", "read"):
        monkeypatch.setattr(database, name, partial(sometimes, getattr(database, name)))

    async def test() -> None:
        world.make = {"v2": lambda: EchoEngine(fail_on="bad")}
        async with world.models() as models:
            trial = await world.canary(models, share=0.5)
            for n in range(8):
                await world.ask(models, str(n))
            away.set()
            await world.until(models.reason)
            for n in range(8, 40):
                await world.ask(models, str(n))
            assert models.canary and "registry" in models.reason()
            away.clear()
            await world.until(lambda: requests(trials.counted(world.registry, trial)) == 40)
            away.set()
            await world.until(models.reason)
            async with world.load(models, lambda n: "bad") as result:
                await world.until(lambda: models.canary is None)
                await world.until(lambda: set(result.answered[-20:]) == {"v1"})
                assert result.failed == []
                away.clear()
                await world.until(lambda: world.registry.canary() is None and not models.reason())

    asyncio.run(test())
    assert "errors" in end(world)["numbers"]["worse"]


def test_an_engine_that_dies_while_the_database_is_away_is_started_again(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away() -> Any:
        raise StateUnavailable("The database is away.")

    async def test() -> None:
        async with world.models() as models:
            await world.canary(models, share=0.999999)
            monkeypatch.setattr(world.registry, "served", away)
            await world.until(models.reason)
            for engines in (world.engines["v1"], world.engines["v2"]):
                engines[0].die(RuntimeError("out of memory"))
            await world.until(lambda: len(world.engines["v1"]) == 2 and models.champion.alive)
            await world.until(lambda: models.canary is None)
            assert await world.ask(models, prompt=TokenIds((1, 2))) == "v1" and "registry" in models.reason()

    asyncio.run(test())


def test_a_replica_that_starts_anew_counts_beside_what_it_had_counted(world: Any, still: None) -> None:
    async def test() -> None:
        async with world.models() as models:
            trial = await world.canary(models, share=0.5)
            for n in random.Random(1).sample(range(30), 30):
                await world.ask(models, str(n))
        async with world.models() as models:
            models._replica = "another"
            await world.until(lambda: models._trial)
            for n in random.Random(2).sample(range(30), 30):
                await world.ask(models, str(n))
            await world.until(lambda: requests(trials.counted(world.registry, trial)) == 60)
            assert trials.counted(world.registry, trial).canary.summary()["callers"] <= 30

    asyncio.run(test())


def test_what_the_champion_answers_in_place_of_the_canary_counts_for_neither(world: Any, still: None) -> None:
    async def test() -> None:
        world.make = {"v2": lambda: EchoEngine(fail_on="bad")}
        async with world.models() as models:
            await world.canary(models, share=0.999999)
            for n in range(9):
                assert await world.ask(models, str(n), prompt="bad") == "v1"
            own = models._trial.own
            assert (own.canary.failed, own.champion.requests) == (9, 0)

    asyncio.run(test())
