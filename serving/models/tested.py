"""The version that developers test by its name, beside those that answer: loaded when asked for, closed when idle."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from llmops.errors import RegistryError
from llmops.registry.registry import Registry
from llmops.registry.version import Version
from serving.engines.base import Engine
from serving.errors import NotReady, VersionNotLoaded
from serving.models.loader import Loaded, Loader, ReportLoad

LOOK_S = 0.05  #: between two looks at whether it is loaded


class Tested:
    """Keeps one version loaded for those who asked for it by name; nobody else is answered by it.

    All methods run in the event loop's thread. After `idle_s` without a request it is closed; 0: none can be asked for.
    """

    def __init__(
        self, registry: Registry, engine_for: Callable[[Version], Engine], report: ReportLoad, idle_s: float
    ) -> None:
        self._registry, self._idle_s = registry, idle_s
        self._loader = Loader(engine_for, report)
        self._wanted = ""  #: name of the version that was asked for last
        self._askers: set[str] = set()  #: prefixes of the keys that asked for it
        self._asked_at = 0.0

    async def provide(self, caller: str, name: str, within_s: float) -> str:
        """Load a version, by name or alias, for the caller with this key's prefix; return the version's name.

        Another version that is tested answers what it had accepted, and is closed first: there is room for one.

        Raises:
            VersionNotLoaded: if there is no such version, it has no model, or nothing may be tested here.
            NotReady: if it cannot be loaded, or not in time, or somebody asked for another meanwhile.
        """
        if not self._idle_s:
            raise VersionNotLoaded(f"{name!r} is not loaded, and serving.test_idle_s is 0: nothing else is loaded.")
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
            self._wanted, self._askers = version.name, set()
            self._loader.keep_loaded(None)
        self._askers.add(caller)
        self._asked_at = deadline = time.monotonic()
        deadline += within_s
        while not self._loaded(version.name):
            if self._wanted != version.name:
                raise NotReady(f"Somebody else asked for {self._wanted}; one version is tested at a time. Try again.")
            if not self._loader.closing:
                self._loader.keep_loaded(version)
            if failure := self._loader.failure:
                raise NotReady(f"{version.name} cannot be loaded ({type(failure.error).__name__}); the log says why.")
            if time.monotonic() > deadline:
                raise NotReady(f"{version.name} is being loaded for your test; try again.")
            await asyncio.sleep(LOOK_S)
        return version.name

    def loaded_for(self, caller: str, side: str) -> Loaded | None:
        """Return the version, if it is loaded and this caller asked for it by this name."""
        return self._loaded(side) if caller in self._askers else None

    def close_if_idle(self) -> None:
        """Close it if nobody asked for it for a while; to be called at every poll."""
        if self._wanted and time.monotonic() - self._asked_at > self._idle_s:
            self._wanted, self._askers = "", set()
            self._loader.keep_loaded(None)

    async def close(self) -> None:
        """Let it answer what it has accepted, and close it."""
        await self._loader.close()

    def _loaded(self, name: str) -> Loaded | None:
        current = self._loader.current
        return current if current and current.version.name == name == self._wanted and current.alive else None
