"""The model that answers, and the watcher that replaces it when the registry has another champion.

The new version is loaded and warmed up beside the old one; then one assignment makes it the current one, and the old
engine answers what it had accepted and goes. A version that cannot be loaded changes nothing but the status.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

from llmops.monitoring.events import emit
from llmops.release.registry import Registry, Version
from serving.engines.base import Answer, Ask, Engine
from serving.errors import NotReady

log = logging.getLogger(__name__)

FIRST_RETRY_S, LAST_RETRY_S = 5.0, 600.0
LOADS = "llmops.serving.model"  #: dataset of the events about versions being loaded


@dataclass(frozen=True, slots=True)
class Loaded:
    """A version and the engine that answers with it."""

    version: Version
    engine: Engine


@dataclass(slots=True)
class Failure:
    """A version that could not be loaded, and when it is tried again."""

    version: str
    error: Exception
    tries: int
    again_at: float


class Models:
    """Keeps the champion loaded. All methods run in the event loop's thread; blocking work goes to others."""

    def __init__(
        self, registry: Registry, engine_for: Callable[[Version], Engine], poll_s: float, events: Path
    ) -> None:
        self._registry, self._engine_for, self._poll_s, self._events = registry, engine_for, poll_s, events
        self._current: Loaded | None = None
        self._loading = ""
        self._failure: Failure | None = None
        self._problem: Exception | None = None
        self._task: asyncio.Task[None] | None = None
        self._retiring: set[asyncio.Task[None]] = set()

    @property
    def current(self) -> Loaded | None:
        """What answers now."""
        return self._current

    def generate(self, ask: Ask) -> tuple[Version, Future[Answer]]:
        """Hand a request to the current engine.

        Raises:
            NotReady: if there is none, with the reason.
            QueueFull: if too many requests wait.
        """
        if self._current is None:
            raise NotReady(self.reason())
        return self._current.version, self._current.engine.generate(ask)

    def reason(self) -> str:
        """Why there is no model, or that something is wrong with a newer one; empty if all is well.

        Anybody may read it, so it leaves out what an error said: that is `cause`.
        """
        if self._problem:
            return f"The registry cannot be read ({type(self._problem).__name__}); the log says why."
        if self._failure:
            kind = type(self._failure.error).__name__
            return f"Version {self._failure.version} cannot be loaded ({kind}); the log says why."
        if self._current and not self._current.engine.stats().alive:
            return "The engine has stopped; restart the app."
        if self._loading and not self._current:
            return f"Version {self._loading} is being loaded."
        return "" if self._current else "There is no champion in the registry yet; the pipeline releases one."

    def cause(self) -> str:
        """`reason` with what the error said, for those who may see paths."""
        error = self._problem or (self._failure.error if self._failure else None)
        return f"{self.reason()} {error}" if error else self.reason()

    def start(self) -> None:
        """Begin to watch."""
        self._task = asyncio.create_task(self._watch(), name="models")

    async def stop(self) -> None:
        """End watching, and let the engine answer what it has accepted."""
        if self._task:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        if self._current:
            await asyncio.to_thread(self._current.engine.close)
            self._current = None
        await asyncio.gather(*self._retiring)

    async def _watch(self) -> None:
        while True:
            try:
                await self._look()
                self._problem = None
            except Exception as error:  # a damaged registry must not end the watching that would see it mended
                if not self._problem:
                    log.exception("The registry cannot be read")
                self._problem = error
            await asyncio.sleep(self._poll_s)

    async def _look(self) -> None:
        champion = await asyncio.to_thread(self._registry.champion)
        if champion is None or (self._current and champion.name == self._current.version.name):
            self._failure = None
            return
        if self._failure and self._failure.version != champion.name:
            self._failure = None
        if self._failure and time.monotonic() < self._failure.again_at:
            return
        await self._load(champion)

    async def _load(self, version: Version) -> None:
        begun, self._loading = time.monotonic(), version.name
        engine = self._engine_for(version)
        try:
            await asyncio.to_thread(engine.load)
        except asyncio.CancelledError:
            await asyncio.to_thread(engine.close)
            raise
        except Exception as error:
            log.exception("Version %s cannot be loaded", version.name)
            await self._fail(version, begun, error)
            return
        finally:
            self._loading = ""
        old, self._current, self._failure = self._current, Loaded(version, engine), None
        if old:
            task = asyncio.create_task(asyncio.to_thread(old.engine.close))
            self._retiring.add(task)
            task.add_done_callback(self._retiring.discard)
        await self._tell(version, "success", begun, "")

    async def _fail(self, version: Version, begun: float, error: Exception) -> None:
        tries = self._failure.tries + 1 if self._failure else 1
        pause_s = min(LAST_RETRY_S, FIRST_RETRY_S * 2 ** (tries - 1))
        self._failure = Failure(version.name, error, tries, time.monotonic() + pause_s)
        await self._tell(version, "failure", begun, f"{type(error).__name__}: {error}")

    async def _tell(self, version: Version, outcome: str, begun: float, reason: str) -> None:
        fields = {
            "event.action": "load",
            "event.outcome": outcome,
            "event.duration": int((time.monotonic() - begun) * 1e9),
            "llmops.model.version": version.name,
            "error.message": reason,
        }
        try:
            await asyncio.to_thread(emit, self._events, LOADS, fields)
        except Exception:  # a full disk is no reason to stop watching
            log.exception("The event about loading %s is lost", version.name)
