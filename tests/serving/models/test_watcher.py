"""Champions come and go, engines die, and callers notice nothing that could be spared them."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from llmops.errors import ArtifactError
from llmops.monitoring.datasets import LOADS
from llmops.registry.aliases import Change, move
from llmops.registry.version import Version
from serving.engines.base import EngineRequest, Question
from serving.engines.echo import EchoEngine
from serving.errors import EngineDied, NotReady
from serving.guard import Guard
from serving.models import loader
from serving.models.watcher import Models


class Gated(EchoEngine):
    """Loads when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.open = threading.Event()

    def _load(self) -> None:
        assert self.open.wait(60)


def test_a_swap_under_load_fails_nothing_and_the_old_engine_goes(world: Any) -> None:
    async def test() -> None:
        world.make = {name: lambda: EchoEngine(token_s=0.002, load_s=0.1) for name in ("v1", "v2")}
        async with world.models() as models, world.load(models) as result:
            await world.until(lambda: len(result.answered) > 20)
            world.registry.promote("v2")
            await world.until(lambda: result.answered[-1] == "v2")
            world.registry.rollback()
            await world.until(lambda: result.answered[-1] == "v1")
            await world.until(lambda: not world.engines["v2"][0].stats().alive)
        assert result.failed == []
        assert [len(world.engines[name]) for name in ("v1", "v2")] == [2, 1]

    asyncio.run(test())


def test_the_old_one_answers_while_the_new_one_loads_and_then_what_it_has_accepted(world: Any) -> None:
    async def test() -> None:
        world.make = {"v2": Gated}
        async with world.models() as models:
            old = world.engines["v1"][0]
            world.registry.promote("v2")
            await world.until(lambda: "v2" in world.engines)
            assert await world.ask(models) == "v1"
            old.going.clear()
            accepted = [asyncio.create_task(world.ask(models)) for _ in range(30)]
            await asyncio.sleep(0)
            world.engines["v2"][0].open.set()
            await world.until(lambda: models.champion.version.name == "v2")
            assert await world.ask(models) == "v2" and not any(task.done() for task in accepted)
            old.going.set()
            assert await asyncio.gather(*accepted) == ["v1"] * 30
            await world.until(lambda: not old.stats().alive)

    asyncio.run(test())


def test_what_is_not_wanted_any_more_when_it_is_loaded_goes_again(world: Any) -> None:
    async def test() -> None:
        world.make = {"v2": Gated}
        async with world.models() as models:
            world.registry.promote("v2")
            await world.until(lambda: "v2" in world.engines)
            world.registry.promote("v3")
            await asyncio.sleep(0.05)
            world.engines["v2"][0].open.set()
            await world.until(lambda: models.champion.version.name == "v3")
            await world.until(lambda: not world.engines["v2"][0].stats().alive)

    asyncio.run(test())


def test_a_version_that_cannot_be_loaded_is_tried_again_and_the_old_one_answers(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "FIRST_RETRY_S", 0.02)

    async def test() -> None:
        broken = [EchoEngine(load_error=MemoryError("no room")), EchoEngine(load_error=MemoryError("no room"))]
        world.make = {"v2": lambda: broken.pop() if broken else EchoEngine()}
        async with world.models() as models:
            world.registry.promote("v2")
            await world.until(lambda: "v2" in models.reason())
            assert "no room" not in models.reason() and "no room" in models.cause()
            assert await world.ask(models) == "v1"
            await world.until(lambda: models.champion.version.name == "v2")
            assert models.reason() == models.cause() == ""

    asyncio.run(test())
    outcomes = [(e["llmops.model.version"], e["event.outcome"]) for e in world.stored(LOADS)]
    assert outcomes == [("v1", "success"), ("v2", "failure"), ("v2", "failure"), ("v2", "success")]


@pytest.mark.parametrize(
    "cause",
    [
        MemoryError("no room"),
        type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: 1 bytes"),
    ],
)
def test_too_little_memory_is_told_as_that_whatever_the_engine_makes_of_it(world: Any, cause: Exception) -> None:
    def load_error() -> Exception:
        error = ArtifactError("The engine cannot run LlamaForCausalLM.")
        error.__cause__ = cause
        return error

    async def test() -> None:
        world.make = {"v2": lambda: EchoEngine(load_error=load_error())}
        async with world.models() as models:
            world.registry.promote("v2")
            await world.until(lambda: "OutOfMemory" in models.reason())
            assert str(cause) in models.cause() and "Llama" not in models.cause()

    asyncio.run(test())


def test_an_engine_that_dies_says_so_and_is_started_again(world: Any) -> None:
    async def test() -> None:
        async with world.models() as models:
            world.make = {"v1": Gated}  # the next ones
            first = world.engines["v1"][0]
            first.going.clear()
            accepted = [asyncio.create_task(world.ask(models)) for _ in range(20)]
            await asyncio.sleep(0)
            first.die(RuntimeError("out of memory"))
            results = await asyncio.gather(*accepted, return_exceptions=True)
            assert {type(result) for result in results} == {EngineDied}
            await world.until(lambda: len(world.engines["v1"]) == 2)
            assert not models.champion.alive and "restarted" in models.reason()
            with pytest.raises(EngineDied):
                models.generate(EngineRequest(Question("hi"), 5), caller="a")
            world.engines["v1"][1].open.set()
            await world.until(lambda: models.champion.alive)
            assert models.reason() == "" and await world.ask(models) == "v1"

    asyncio.run(test())


def test_an_engine_that_dies_again_and_again_is_started_more_and_more_rarely(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "FIRST_RETRY_S", 0.02)

    async def test() -> None:
        async with world.models() as models:
            for n in range(4):
                await world.until(lambda: models.champion.alive)
                world.engines["v1"][n].die(RuntimeError("again"))
                await world.until(lambda n=n: len(world.engines["v1"]) == n + 2)
            assert models._champion._tries == 4
            monkeypatch.setattr(loader, "STEADY_S", -1.0)  # it has lived long enough
            await world.until(lambda: models._champion._tries == 0)

    asyncio.run(test())


def test_without_a_champion_there_is_no_answer_but_a_reason(world: Any) -> None:
    async def test() -> None:
        with world.registry.database.change() as connection:
            move(connection, "bot", {}, Change("promote", "", "a test", "none"))
        models = Models(world.registry, world.engine, 0.01, world.events, Guard(()))
        with pytest.raises(NotReady, match="no champion"):
            models.generate(EngineRequest(Question("hi"), 5), caller="a")

    asyncio.run(test())


def test_stopping_in_the_middle_of_loading_leaves_no_engine(world: Any) -> None:
    async def test() -> None:
        world.make = {"v2": lambda: EchoEngine(load_s=0.2)}
        async with world.models():
            world.registry.promote("v2")
            await world.until(lambda: "v2" in world.engines)

    asyncio.run(test())
    assert not any(engine.stats().alive for engines in world.engines.values() for engine in engines)


@pytest.mark.parametrize("turns", range(5))
def test_it_stops_though_it_is_woken_at_that_moment(world: Any, turns: int) -> None:
    """However many turns of the event loop lie between: the two must not cancel each other out."""

    async def test() -> None:
        models = Models(world.registry, world.engine, 60.0, world.events, Guard(("SECRET",)))
        models.start()
        await world.until(lambda: models.champion)
        await asyncio.sleep(0.05)  # it pauses now
        models._wake.set()
        for _ in range(turns):
            await asyncio.sleep(0)
        stopped, _ = await asyncio.wait({asyncio.create_task(models.stop())}, timeout=10)
        assert stopped

    asyncio.run(test())


def test_what_was_loaded_is_told_of_though_it_stops_at_that_moment(world: Any) -> None:
    told: list[str] = []

    async def report(version: Version, seconds: float, error: Exception | None) -> None:
        await asyncio.sleep(0.05)
        told.append(version.name)

    async def test() -> None:
        loading = loader.Loader(world.engine, report)
        loading.keep_loaded(world.registry.served()[0])
        await world.until(lambda: loading.current)
        await loading.close()

    asyncio.run(test())
    assert told == ["v1"]
