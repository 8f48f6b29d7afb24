"""The version that developers test by its name. It is loaded when they ask for it, and closed when idle."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from llmops.frame.errors import RegistryError
from llmops.release.registry.registry import Registry
from llmops.release.registry.version import Version
from serving.engines.base import Engine
from serving.errors import NotReady, VersionNotLoaded
from serving.models.loader import LoadedVersion, Loader, ReportLoad

POLL_S = 0.05  #: how often a request looks whether the version is loaded


class TestedVersion:
    """One version that answers only the callers who asked for it by name.

    All methods run in the event loop's thread. After `idle_s` without a request the version is closed; with 0 no
    version can be tested.
    """

    def __init__(
        self, registry: Registry, make_engine: Callable[[Version], Engine], report: ReportLoad, idle_s: float
    ) -> None:
        self._registry, self._idle_s = registry, idle_s
        self._loader = Loader(make_engine, report)
        self._wanted = ""  #: name of the version that was asked for last
        self._callers: set[str] = set()  #: those who asked for it, see `Key.answered_to`
        self._last_request_at = 0.0

    async def provide(self, caller: str, name: str, timeout_s: float) -> str:
        """Load a version, by name or alias, for a caller, see `Key.answered_to`; return the version's name.

        There is memory for one tested version: the previous one answers its accepted requests and is closed first.

        Raises:
            VersionNotLoaded: if there is no such version, it has no model, or `serving.test_idle_s` is 0.
            NotReady: if it cannot be loaded, or not in time, or somebody asked for another version meanwhile.
        """
        if not self._idle_s:
            raise VersionNotLoaded(f"{name!r} is not loaded, and serving.test_idle_s is 0: no version can be tested.")
        try:
            version = await asyncio.to_thread(self._registry.get, name)
        except RegistryError as error:
            raise VersionNotLoaded(str(error)) from None
        if not version.servable.is_dir():
            raise VersionNotLoaded(f"{version.name} has no model any more; it cannot be tested.")
        if version.name != self._wanted:
            if self._wanted and self._loader.loading == self._wanted:
                raise NotReady(
                    f"{self._wanted} is being loaded for a test; one version is tested at a time. Try again."
                )
            self._wanted, self._callers = version.name, set()
            self._loader.keep_loaded(None)  # begins to close the previous version
        self._callers.add(caller)
        self._last_request_at = time.monotonic()
        deadline = self._last_request_at + timeout_s
        while not self._get_loaded(version.name):
            if self._wanted != version.name:
                raise NotReady(f"Somebody else asked for {self._wanted}; one version is tested at a time. Try again.")
            if not self._loader.closing:
                self._loader.keep_loaded(version)  # begins to load it, if that has not begun
            if failure := self._loader.failure:
                raise NotReady(f"{version.name} cannot be loaded ({type(failure.error).__name__}); the log says why.")
            if time.monotonic() > deadline:
                raise NotReady(f"{version.name} is being loaded for your test; try again.")
            await asyncio.sleep(POLL_S)
        return version.name

    def find_loaded(self, caller: str, name: str) -> LoadedVersion | None:
        """Return the version if it is loaded, has this name, and this caller asked for it."""
        return self._get_loaded(name) if caller in self._callers else None

    def close_if_idle(self) -> None:
        """Close the version if nobody asked for it for `idle_s`. Call it at every poll."""
        if self._wanted and time.monotonic() - self._last_request_at > self._idle_s:
            self._wanted, self._callers = "", set()
            self._loader.keep_loaded(None)

    async def close(self) -> None:
        """Close the version after it has answered its accepted requests."""
        await self._loader.close()

    def _get_loaded(self, name: str) -> LoadedVersion | None:
        current = self._loader.current
        return current if current and current.version.name == name == self._wanted and current.alive else None
