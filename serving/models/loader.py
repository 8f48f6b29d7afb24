"""The loader of one version: a newer one is loaded beside it and takes over when it is warm; dead engines restart."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmops.events.datasets import SERVING_MODEL
from llmops.events.events import emit
from llmops.release.registry.version import Version
from serving.engines.base import Engine
from serving.errors import EngineDied

log = logging.getLogger(__name__)


FIRST_RETRY_S, LAST_RETRY_S = 5.0, 600.0
STABLE_S = 60.0  #: after this time an engine's death is no longer a failed start


@dataclass(frozen=True, slots=True)
class LoadedVersion:
    """A version and the engine that answers with it."""

    version: Version
    engine: Engine
    loaded_at: float  #: by `time.monotonic`

    @property
    def alive(self) -> bool:
        """Return True while the engine can answer."""
        return self.engine.get_stats().alive


@dataclass(frozen=True, slots=True)
class LoadFailure:
    """A version that could not be loaded or whose engine died."""

    version: str
    error: Exception
    retry_at: float  #: by `time.monotonic`


#: called after every load with the version, the seconds that it took, and the error or None; after an engine's death
#: with the seconds that it lived, and `EngineDied`
ReportLoad = Callable[[Version, float, Exception | None], Coroutine[Any, Any, None]]


class Loader:
    """The loader of one version: the last one passed to `keep_loaded`.

    All methods run in the event loop's thread; engines are loaded and closed in other threads. `make_engine` returns
    the engine of a version, not yet loaded.
    """

    def __init__(self, make_engine: Callable[[Version], Engine], report: ReportLoad) -> None:
        self._make_engine, self._report = make_engine, report
        self.current: LoadedVersion | None = (
            None  #: the version that answers; a dead engine stays here until another is warm
        )
        self.failure: LoadFailure | None = None
        self.loading = ""  #: name of the version that is being loaded
        self._wanted = ""
        self._failures = 0
        self._task: asyncio.Task[None] | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self._reports: set[asyncio.Task[None]] = set()
        self._closed_engine: Engine | None = None  # an engine that died and was closed, though it is still `current`

    def keep_loaded(self, version: Version | None) -> None:
        """Load this version, or none. Call it at every poll.

        A load that failed, or an engine that died, is tried again. The present engine answers until the new one is
        warm; then it answers its accepted requests and is closed.
        """
        wanted = version.name if version else ""
        if wanted != self._wanted:
            self._wanted, self.failure, self._failures = wanted, None, 0
        if version is None:
            self._swap(None)
            return
        now, current = time.monotonic(), self.current
        if self._task or (self.failure and now < self.failure.retry_at):
            return
        if current and current.version.name == wanted:
            if current.alive:
                self._failures = 0 if now - current.loaded_at > STABLE_S else self._failures
                return
            if not self.failure:
                self._record_failure(version, EngineDied())
                log.error("The engine of %s has died; it is restarted", wanted)
                _start_task(self._report(version, now - current.loaded_at, EngineDied()), self._reports)
                if self._failures > 1:
                    return
        self._task = asyncio.create_task(self._load(version), name=f"load {wanted}")

    def is_loaded(self, version: Version | None) -> bool:
        """Return True if this version is loaded."""
        return bool(version and self.current and self.current.version.name == version.name)

    @property
    def closing(self) -> bool:
        """Return True while a replaced engine still answers its accepted requests."""
        return bool(self._closing)

    def hand_over(self) -> LoadedVersion | None:
        """Return the loaded version for another loader, and drop it without closing its engine."""
        loaded, self.current, self._wanted = self.current, None, ""
        return loaded

    def take_over(self, loaded: LoadedVersion) -> None:
        """Keep a version that another loader has handed over."""
        self._swap(loaded)
        self._wanted, self.failure, self._failures = loaded.version.name, None, 0

    async def close(self) -> None:
        """Stop loading, and close the engine after it has answered its accepted requests."""
        if self._task:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self._swap(None)
        await asyncio.gather(*self._closing, *self._reports)

    def _swap(self, loaded: LoadedVersion | None) -> None:
        old, self.current = self.current, loaded
        if old and old.engine is not self._closed_engine:
            self._retire(old.engine)
        self._closed_engine = None

    def _retire(self, engine: Engine) -> None:
        _start_task(asyncio.to_thread(engine.close), self._closing)

    async def _load(self, version: Version) -> None:
        start, self.loading, error = time.monotonic(), version.name, None
        try:
            try:
                engine = await self._start_engine(version)
            except Exception as reason:
                log.exception("Version %s cannot be loaded", version.name)
                error = reason
                if self._wanted == version.name:
                    self._record_failure(version, reason)
            else:
                if self._wanted == version.name:
                    self._swap(LoadedVersion(version, engine, time.monotonic()))
                    self.failure = None
                else:  # another version is wanted meanwhile
                    self._retire(engine)
            self.loading = ""  # it may answer already, while its event is written
            report = _start_task(self._report(version, time.monotonic() - start, error), self._reports)
            await asyncio.shield(report)  # finish it even if the app stops now
        finally:
            self.loading, self._task = "", None

    async def _start_engine(self, version: Version) -> Engine:
        dead = self.current.engine if self.current and not self.current.alive else None
        if dead and dead is not self._closed_engine:
            await asyncio.to_thread(dead.close)  # free its memory before the new engine takes as much
            self._closed_engine = dead
        engine = self._make_engine(version)
        try:
            await asyncio.to_thread(engine.load)
        except asyncio.CancelledError:
            await asyncio.to_thread(engine.close)
            raise
        return engine

    def _record_failure(self, version: Version, error: Exception) -> None:
        """Record a failure and the time of the next try. The pause doubles each time, from 5 s to 10 minutes.

        The first restart of an engine that died does not wait; see `keep_loaded`.
        """
        self._failures += 1
        pause_s = min(LAST_RETRY_S, FIRST_RETRY_S * 2 ** (self._failures - 1))
        self.failure = LoadFailure(version.name, error, time.monotonic() + pause_s)


def _start_task(work: Coroutine[Any, Any, None], running: set[asyncio.Task[None]]) -> asyncio.Task[None]:
    """Start a task. Keep it in `running` until it has ended, because `Loader.close` waits for it."""
    task = asyncio.create_task(work)
    running.add(task)
    task.add_done_callback(running.discard)
    return task


async def report_load(events: Path, version: Version, seconds: float, error: Exception | None) -> None:
    """Emit the event of a load; see `ReportLoad`."""
    fields = {
        "event.action": "die" if isinstance(error, EngineDied) else "load",
        "event.outcome": "failure" if error else "success",
        "event.duration": int(seconds * 1e9),
        "llmops.model.version": version.name,
        "error.message": f"{type(error).__name__}: {error}" if error else "",
    }
    try:
        await asyncio.to_thread(emit, events, SERVING_MODEL, fields)
    except Exception:  # a full disk must not stop the watcher
        log.exception("The event about loading %s is lost", version.name)
