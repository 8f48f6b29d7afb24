"""Champions come and go, engines die, and callers notice nothing that could be spared them."""

import asyncio
import threading
import weakref
from types import SimpleNamespace
from typing import Any

import pytest

from llmops.events.datasets import SERVING_MODEL
from serving.errors import EngineDied
from serving.models import loader
from serving.models.tested_version import TestedVersion
from tests.clock import FakeClock
from tests.serving.echo import EchoEngine, EchoRow

pytestmark = pytest.mark.anyio


class Gated(EchoEngine):
    """Loads when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.open = threading.Event()

    def _load(self) -> None:
        assert self.open.wait(60)


async def test_the_old_one_answers_while_the_new_one_loads_and_then_what_it_has_accepted(world: Any) -> None:
    world.make = {"v2": Gated}
    async with world.models() as models:
        old = world.engines["v1"][0]
        world.registry.promote("v2")
        await world.until(lambda: "v2" in world.engines)
        assert await world.ask(models) == "v1"
        old.may_step.clear()
        accepted = [asyncio.create_task(world.ask(models)) for _ in range(30)]
        await asyncio.sleep(0)
        world.engines["v2"][0].open.set()
        await world.until(lambda: models.champion.version.name == "v2")
        assert await world.ask(models) == "v2" and not any(task.done() for task in accepted)
        old.may_step.set()
        assert await asyncio.gather(*accepted) == ["v1"] * 30
        await world.until(lambda: not old.get_stats().alive)


async def test_what_is_not_wanted_any_more_when_it_is_loaded_goes_again(world: Any) -> None:
    world.make = {"v2": Gated}
    async with world.models() as models:
        world.registry.promote("v2")
        await world.until(lambda: "v2" in world.engines)
        world.registry.promote("v3")
        await world.until(lambda: models._champion._wanted == "v3")
        world.engines["v2"][0].open.set()
        await world.until(lambda: models.champion.version.name == "v3")
        await world.until(lambda: not world.engines["v2"][0].get_stats().alive)


async def test_a_version_that_cannot_be_loaded_is_tried_again_and_the_old_one_answers(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "FIRST_RETRY_S", 0.02)

    broken = [EchoEngine(load_error=MemoryError("no room")), EchoEngine(load_error=MemoryError("no room"))]
    world.make = {"v2": lambda: broken.pop() if broken else EchoEngine()}
    async with world.models() as models:
        world.registry.promote("v2")
        await world.until(lambda: "v2" in models.explain())
        assert "no room" not in models.explain() and "no room" in models.explain_with_error()
        assert await world.ask(models) == "v1"
        await world.until(lambda: models.champion.version.name == "v2")
        assert models.explain() == models.explain_with_error() == ""
    outcomes = [(e["llmops.model.version"], e["event.outcome"]) for e in world.stored(SERVING_MODEL)]
    assert outcomes == [("v1", "success"), ("v2", "failure"), ("v2", "failure"), ("v2", "success")]


class Weights:
    """The weights of a model."""


class Heavy(EchoEngine):
    """Has its weights in local variables where it fails: when it is loaded, or at a request."""

    def __init__(self, fails_at_load: bool) -> None:
        super().__init__()
        self._fails_at_load, self._weights = fails_at_load, Weights()
        self.weights = weakref.ref(self._weights)

    def _load(self) -> None:
        weights = self._weights
        if self._fails_at_load:
            raise MemoryError("no room beside", weights.__class__)

    def _step(self, rows: list[EchoRow]) -> None:
        weights = self._weights
        try:
            raise MemoryError("no room beside", weights.__class__)
        except MemoryError as error:
            raise RuntimeError("the step failed") from error

    def _unload(self) -> None:
        self._weights = None


@pytest.mark.parametrize("fails_at_load", [True, False])
async def test_an_engine_that_failed_has_let_its_weights_go_before_the_next_is_made(
    world: Any, monkeypatch: pytest.MonkeyPatch, fails_at_load: bool
) -> None:
    monkeypatch.setattr(loader, "FIRST_RETRY_S", 0.02)
    kept: list[Any] = []

    def make() -> EchoEngine:
        kept.extend(engine.weights() for engine in world.engines.get("v2", ()))
        return Heavy(fails_at_load) if "v2" not in world.engines else EchoEngine()

    world.make = {"v2": make}
    async with world.models() as models:
        world.registry.promote("v2")
        if not fails_at_load:
            await world.until(lambda: models.champion.version.name == "v2")
            with pytest.raises(EngineDied):
                await world.ask(models)
        await world.until(lambda: len(world.engines.get("v2", ())) == 2)
    assert kept == [None]


async def test_an_engine_that_dies_again_and_again_is_started_more_and_more_rarely(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def report(*load: Any) -> None: ...

    clock, version = FakeClock(), world.registry.read_served()[0]
    monkeypatch.setattr(loader, "time", SimpleNamespace(monotonic=clock.monotonic))
    loading, engines = loader.Loader(world.engine, report), world.engines.setdefault("v1", [])

    async def die(lived_s: float = 0.0) -> None:
        loading.keep_loaded(version)
        await world.until(lambda: loading._task is None and loading.current.alive)
        clock.advance(lived_s)
        loading.keep_loaded(version)  # it is seen alive
        engines[-1].die(RuntimeError("again"))
        await world.until(lambda: not loading.current.alive)
        loading.keep_loaded(version)

    await die()
    await world.until(lambda: len(engines) == 2)  # the first time at once
    for pause_s in (10, 20, 40, 80, 160, 320, 600, 600):
        await die()
        clock.advance(pause_s - 0.5)
        loading.keep_loaded(version)
        assert loading._task is None
        clock.advance(0.5)
    await die(lived_s=loader.STABLE_S + 1)
    await world.until(lambda: len(engines) == 11)  # it was not the start that killed it
    await loading.close()


async def test_stopping_in_the_middle_of_loading_leaves_no_engine(world: Any) -> None:
    world.make = {"v2": lambda: EchoEngine(load_s=0.05)}
    async with world.models():
        world.registry.promote("v2")
        await world.until(lambda: "v2" in world.engines)
    assert not any(engine.get_stats().alive for engines in world.engines.values() for engine in engines)


async def test_a_tested_version_whose_load_is_still_being_reported_makes_room_for_the_next(world: Any) -> None:
    written = asyncio.Event()

    async def report(*load: Any) -> None:
        await written.wait()

    tested = TestedVersion(world.registry, world.engine, report, 60)
    assert await tested.provide("ann", "v2", 60) == "v2"
    following = asyncio.create_task(tested.provide("ann", "v3", 60))
    await world.until(lambda: tested._wanted == "v3" or following.done())
    written.set()
    assert await following == "v3"
    await tested.close()
