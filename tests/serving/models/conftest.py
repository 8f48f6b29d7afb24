"""Models over a registry of echo engines, and callers that never stop asking."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from llmops.config import Monitoring
from llmops.events.shipping import drain_spool
from llmops.events.sinks.local import LocalStore
from llmops.release import rollout
from llmops.release.registry.registry import Registry
from llmops.release.registry.version import Version
from llmops.state.database import database_at
from serving.engines.base import EngineRequest, Prompt, Question
from serving.guard import Guard
from serving.models.watcher import Models
from tests.release.conftest import facts
from tests.serving.echo import EchoEngine


@dataclass
class World:
    """A registry with the versions v1 (champion), v2 and v3, and what makes their engines."""

    home: Path
    make: dict[str, Callable[[], EchoEngine]] = field(default_factory=dict)  #: version → engine; default: plain echo
    engines: dict[str, list[EchoEngine]] = field(default_factory=dict)  #: all that were made

    def __post_init__(self) -> None:
        database = database_at(f"sqlite:///{self.home / 'state.db'}")
        self.registry, self.events = Registry(self.home / "registry", "bot", database), self.home / "events"
        (self.home / "servable").mkdir()
        for n in range(1, 4):
            known, trees = facts(status="rejected", compress=f"c{n}"), {"servable": self.home / "servable"}
            version = self.registry.publish(known, trees, lambda v: {}, by="t", why="")
            # the gate passed it, but it did not become the champion
            self.registry.decide(version.name, "gate", "promoted", by="t", why="passed")
        self.registry.promote("v1")

    def engine(self, version: Version) -> EchoEngine:
        engine = self.make.get(version.name, EchoEngine)()
        self.engines.setdefault(version.name, []).append(engine)
        return engine

    @asynccontextmanager
    async def models(self, replicas: int = 1) -> AsyncIterator[Any]:
        """One `Models` that is ready, or several."""
        several = [Models(self.registry, self.engine, 0.01, self.events, Guard(("SECRET",))) for _ in range(replicas)]
        for n, models in enumerate(several):
            models._replica = f"replica-{n}"  # they share this process
            models.start()
        try:
            await self.until(lambda: all(models.champion for models in several))
            yield several[0] if replicas == 1 else several
        finally:
            for models in several:
                await models.stop()

    async def canary(self, models: Models, version: str = "v2", share: float = 0.5) -> str:
        """Start a canary and wait until its trial has begun, and is perhaps over; gives the trial."""
        trial = rollout.start(self.registry, self.events, version, share, by="test", why="try")
        await self.until(lambda: models._trial or self.registry.canary() is None)
        return trial.started

    def stored(self, dataset: str) -> list[dict[str, Any]]:
        drain_spool(self.events, Monitoring())
        return list(LocalStore(self.events).find(dataset))

    @staticmethod
    async def ask(models: Models, caller: str = "a", side: str = "", prompt: str | Prompt = "one two three") -> str:
        """Ask once; the version that answered."""
        prompt = Question(prompt) if isinstance(prompt, str) else prompt
        stream = models.generate(EngineRequest(prompt, 20), caller=caller, side=side)
        answer = await stream.collect()
        assert answer.text
        return stream.version.name

    @asynccontextmanager
    async def load(
        self, models: Models, prompts: Callable[[int], str] = lambda n: "one two three", tasks: int = 8
    ) -> AsyncIterator[Any]:
        """Many callers, each request another one, in so many tasks; gives the versions that `answered` and the errors
        that `failed`, in order."""
        result, numbers, stop = SimpleNamespace(answered=[], failed=[]), count(), asyncio.Event()

        async def hammer() -> None:
            while not stop.is_set():
                n = next(numbers)
                try:
                    result.answered.append(await self.ask(models, f"caller{n}", prompt=prompts(n)))
                except Exception as error:
                    result.failed.append(error)
                await asyncio.sleep(0)

        running = [asyncio.create_task(hammer()) for _ in range(tasks)]
        try:
            yield result
        finally:
            stop.set()
            await asyncio.gather(*running)

    @staticmethod
    async def until(condition: Callable[[], Any]) -> None:
        async with asyncio.timeout(50):
            while not condition():
                await asyncio.sleep(0.002)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)
