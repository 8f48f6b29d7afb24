"""Keeps one version loaded: a newer one is loaded beside it and takes over when it is warm; what dies is restarted."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmops.monitoring.datasets import LOADS
from llmops.monitoring.events import emit
from llmops.registry.version import Version
from serving.engines.base import Engine
from serving.errors import EngineDied

log = logging.getLogger(__name__)


FIRST_RETRY_S, LAST_RETRY_S = 5.0, 600.0
STEADY_S = 60.0  #: an engine that has lived so long has not died of being started


@dataclass(frozen=True, slots=True)
class Loaded:
    """A version and the engine that answers with it."""

    version: Version
    engine: Engine
    since: float  #: by `time.monotonic`

    @property
    def alive(self) -> bool:
        """Return True while the engine can answer."""
        return self.engine.stats().alive


@dataclass(frozen=True, slots=True)
class Failure:
    """A version that could not be loaded or whose engine died, and when it is tried again."""

    version: str
    error: Exception
    again_at: float


#: called after every load with the version, the seconds that it took, and the error; None: it went well. When an engine
#: has died, with the seconds that it lived, and `EngineDied`
ReportLoad = Callable[[Version, float, Exception | None], Coroutine[Any, Any, None]]


class Loader:
    """Keeps one version loaded, the one that `keep_loaded` was given last.

    All methods run in the event loop's thread; loading and closing block, so they happen in others. `engine_for` makes
    the engine of a version, not loaded yet.
    """

    def __init__(self, engine_for: Callable[[Version], Engine], report: ReportLoad) -> None:
        self._engine_for, self._report = engine_for, report
        self.current: Loaded | None = None  #: what answers; an engine that has died stays until another is warm
        self.failure: Failure | None = None
        self.loading = ""  #: name of the version that is being loaded
        self._wanted = ""
        self._tries = 0
        self._task: asyncio.Task[None] | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self._reports: set[asyncio.Task[None]] = set()
        self._buried: Engine | None = None  # an engine that died and was closed, though it is still `current`

    def keep_loaded(self, version: Version | None) -> None:
        """Load this version from now on, or none. Call it at every poll.

        Begins to load it if need be, and again if that failed or its engine died. The engine that is loaded now answers
        until the new one is warm; then it answers what it has accepted and is closed.
        """
        wanted = version.name if version else ""
        if wanted != self._wanted:
            self._wanted, self.failure, self._tries = wanted, None, 0
        if version is None:
            self._swap(None)
            return
        now, current = time.monotonic(), self.current
        if self._task or (self.failure and now < self.failure.again_at):
            return
        if current and current.version.name == wanted:
            if current.alive:
                self._tries = 0 if now - current.since > STEADY_S else self._tries
                return
            if not self.failure:
                self._fail(version, EngineDied())
                log.error("The engine of %s has died; it is restarted", wanted)
                _started(self._report(version, now - current.since, EngineDied()), self._reports)
                if self._tries > 1:
                    return
        self._task = asyncio.create_task(self._load(version), name=f"load {wanted}")

    def has(self, version: Version | None) -> bool:
        """Return whether this version is loaded."""
        return bool(version and self.current and self.current.version.name == version.name)

    @property
    def closing(self) -> bool:
        """Return True while a replaced engine still answers its accepted requests."""
        return bool(self._closing)

    def hand_over(self) -> Loaded | None:
        """Give up the loaded version without closing its engine; another loader takes it over."""
        given, self.current, self._wanted = self.current, None, ""
        return given

    def take_over(self, loaded: Loaded) -> None:
        """Keep the version that another loader has handed over."""
        self._swap(loaded)
        self._wanted, self.failure, self._tries = loaded.version.name, None, 0

    async def close(self) -> None:
        """Give up loading, and let the loaded engine answer what it has accepted."""
        if self._task:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self._swap(None)
        await asyncio.gather(*self._closing, *self._reports)

    def _swap(self, loaded: Loaded | None) -> None:
        old, self.current = self.current, loaded
        if old and old.engine is not self._buried:
            self._retire(old.engine)
        self._buried = None

    def _retire(self, engine: Engine) -> None:
        _started(asyncio.to_thread(engine.close), self._closing)

    async def _load(self, version: Version) -> None:
        begun, self.loading, error = time.monotonic(), version.name, None
        try:
            try:
                engine = await self._warm(version)
            except Exception as reason:
                log.exception("Version %s cannot be loaded", version.name)
                error = reason
                if self._wanted == version.name:
                    self._fail(version, reason)
            else:
                if self._wanted == version.name:
                    self._swap(Loaded(version, engine, time.monotonic()))
                    self.failure = None
                else:  # another one is wanted meanwhile
                    self._retire(engine)
            report = _started(self._report(version, time.monotonic() - begun, error), self._reports)
            await asyncio.shield(report)  # also if the app stops at that moment
        finally:
            self.loading, self._task = "", None

    async def _warm(self, version: Version) -> Engine:
        dead = self.current.engine if self.current and not self.current.alive else None
        if dead and dead is not self._buried:
            await asyncio.to_thread(dead.close)  # what is left of it would take memory twice
            self._buried = dead
        engine = self._engine_for(version)
        try:
            await asyncio.to_thread(engine.load)
        except asyncio.CancelledError:
            await asyncio.to_thread(engine.close)
            raise
        return engine

    def _fail(self, version: Version, error: Exception) -> None:
        """Note a failure and when it is tried again: each time after a pause twice as long, 5 s to 10 minutes.

        Only the first restart of an engine that died does not wait for that; see `keep_loaded`.
        """
        self._tries += 1
        pause_s = min(LAST_RETRY_S, FIRST_RETRY_S * 2 ** (self._tries - 1))
        self.failure = Failure(version.name, error, time.monotonic() + pause_s)


def _started(work: Coroutine[Any, Any, None], running: set[asyncio.Task[None]]) -> asyncio.Task[None]:
    """Start a task, which is in `running` until it has ended: `Loader.close` waits for it."""
    task = asyncio.create_task(work)
    running.add(task)
    task.add_done_callback(running.discard)
    return task


async def report_load(events: Path, version: Version, seconds: float, error: Exception | None) -> None:
    """Write the event of a load; see `ReportLoad`."""
    fields = {
        "event.action": "die" if isinstance(error, EngineDied) else "load",
        "event.outcome": "failure" if error else "success",
        "event.duration": int(seconds * 1e9),
        "llmops.model.version": version.name,
        "error.message": f"{type(error).__name__}: {error}" if error else "",
    }
    try:
        await asyncio.to_thread(emit, events, LOADS, fields)
    except Exception:  # a full disk is no reason to stop watching
        log.exception("The event about loading %s is lost", version.name)
