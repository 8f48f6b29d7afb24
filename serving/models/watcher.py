"""The models that answer, and the watcher that follows the registry's aliases.

A new champion is loaded and warmed up beside the old one; then one assignment makes it the one that answers, and the
old engine answers what it had accepted and is closed. A version that cannot be loaded changes nothing but the status
that `/readyz` tells. A canary is loaded beside the champion, answers its share of the callers, and is pulled as soon as
it is found worse; one that is promoted is not loaded again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path

from llmops.monitoring.events import emit
from llmops.registry.registry import Registry
from llmops.registry.version import Version
from llmops.release import rollout
from llmops.release.canary import Figures
from serving.engines.base import Chunk, Engine, EngineRequest, TokenIds
from serving.errors import EngineDied, NotReady, QueueFull, VersionNotLoaded
from serving.guard import Guard
from serving.models.loader import Loaded, Loader
from serving.models.stream import GuardedStream
from serving.models.trial import CanaryTrial, answered_by_canary

log = logging.getLogger(__name__)

LOADS = "llmops.serving.model"  #: dataset of the events about versions being loaded


class Models:
    """Keeps champion and canary loaded, and hands requests to their engines.

    All methods run in the event loop's thread; work that blocks is done in others.

    Args:
        registry: its aliases are followed.
        engine_for: makes the engine of a version, not loaded yet.
        poll_s: seconds between two readings of the aliases.
        events: the events folder, for events about loads and canaries.
        guard: looks at all answers.
    """

    def __init__(
        self, registry: Registry, engine_for: Callable[[Version], Engine], poll_s: float, events: Path, guard: Guard
    ) -> None:
        self._registry, self._poll_s, self._events, self._guard = registry, poll_s, events, guard
        self._champion, self._canary = Loader(engine_for, self._report_load), Loader(engine_for, self._report_load)
        self._trial: CanaryTrial | None = None
        self._before = Figures()  # what the champion has done outside of trials
        self._before_of = ""  # name of the version that `_before` is about
        self._replica = f"{socket.gethostname()}-{os.getpid()}"
        self._counts_written = 0  # how many requests the counts had that are in the registry
        self._registry_error: Exception | None = None
        self._wake = asyncio.Event()  # ends the pause between two readings of the aliases
        self._task: asyncio.Task[None] | None = None

    @property
    def champion(self) -> Loaded | None:
        """The champion, once it is loaded."""
        return self._champion.current

    @property
    def canary(self) -> Loaded | None:
        """The canary, while it answers."""
        return self._canary.current if self._trial and not self._trial.why else None

    @property
    def loaded(self) -> tuple[Loaded, ...]:
        """All that answer now, the champion first."""
        return tuple(one for one in (self.champion, self.canary) if one)

    def choose(self, caller: str, side: str = "") -> Loaded:
        """The version that answers this caller now, with its engine.

        Args:
            caller: the prefix of the caller's key.
            side: the side that the caller asks for; empty: none, and the caller is drawn to one.

        Raises:
            NotReady: if no champion is loaded, with the reason.
            VersionNotLoaded: if the side that is asked for is not there.
        """
        champion, canary = self.champion, self.canary
        if champion is None:
            raise NotReady(self.reason())
        if not side:
            return canary if canary and self._trial and answered_by_canary(caller, self._trial.registered) else champion
        if side in ("champion", champion.version.name):
            return champion
        if canary and side in ("canary", canary.version.name):
            return canary
        names = " and ".join(one.version.name for one in self.loaded)
        raise VersionNotLoaded(f"{side!r} is not loaded; {names} answer{'s' if canary is None else ''}.")

    def generate(self, request: EngineRequest, *, caller: str, side: str = "") -> tuple[Version, GuardedStream]:
        """Hand a request to the engine of the version that `choose` gives; returns version and stream of the answer.

        A caller who is drawn to the canary does not suffer from it: if the canary's engine has no room, or fails before
        its first chunk, the champion answers instead, and the stream's version says so. Only a prompt of token ids is
        not handed on, since they are those of one version's tokenizer.

        A request that asks for a side does not count in a trial: who asks for one is no fair sample of the callers.

        Args:
            request: what the engine is to answer.
            caller: see `choose`.
            side: see `choose`.

        Raises:
            NotReady, VersionNotLoaded: see `choose`.
            QueueFull: if too many requests wait.
            EngineDied: if the engine has died and is being restarted.
        """
        chosen = self.choose(caller, side)
        if side or chosen is self.champion:
            return chosen.version, self._guarded(chosen, request, counted=not side)
        spare = partial(self._guarded, self.champion or chosen, request, counted=True)
        try:
            stream = self._guarded(chosen, request, True, None if isinstance(request.prompt, TokenIds) else spare)
        except (QueueFull, EngineDied):
            if isinstance(request.prompt, TokenIds):
                raise
            stream = spare()
        return stream.version, stream

    def reason(self) -> str:
        """Why no model answers, or what is wrong with a newer version; empty if all is well.

        Anybody may read it, so it leaves out the words of an error, which `cause` has.
        """
        champion, failure = self.champion, self._champion.failure
        if self._registry_error:
            return f"The registry cannot be read or written ({type(self._registry_error).__name__}); the log says why."
        if champion and not champion.alive:
            return f"The engine of {champion.version.name} has stopped; it is being restarted."
        if failure:
            return f"Version {failure.version} cannot be loaded ({type(failure.error).__name__}); the log says why."
        if self._champion.loading and not champion:
            return f"Version {self._champion.loading} is being loaded."
        return "" if champion else "There is no champion in the registry yet; the pipeline releases one."

    def cause(self) -> str:
        """`reason` and the words of the error, for those who may see paths of this machine."""
        failure = self._champion.failure
        error = self._registry_error or (failure.error if failure else None)
        return f"{self.reason()} {error}" if error else self.reason()

    def start(self) -> None:
        """Begin to watch."""
        self._task = asyncio.create_task(self._watch(), name="models")

    async def stop(self) -> None:
        """End watching, and let the engines answer what they have accepted."""
        if self._task:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await asyncio.gather(self._champion.close(), self._canary.close())

    async def _watch(self) -> None:
        while True:
            self._wake.clear()
            try:
                await self._follow_aliases()
                self._registry_error = None
            except Exception as error:  # a damaged registry must not end the watching that would see it mended
                if not self._registry_error:
                    log.exception("The registry cannot be read or written")
                self._registry_error = error
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), self._poll_s)

    async def _follow_aliases(self) -> None:
        """Read the aliases once and act on them: load what they name; begin, write down or end a canary's trial."""
        champion, canary, trial = await asyncio.to_thread(self._registry.served)
        tried = self._canary.current
        if champion and tried and tried.alive and tried.version.name == champion.name:
            self._champion.take_over(self._canary.hand_over() or tried)  # the canary was promoted
        if champion:  # what answers is never taken away for nothing
            self._champion.keep_loaded(champion)
        if self.champion and self.champion.version.name != self._before_of:
            self._before_of, self._before = self.champion.version.name, Figures()
        if self._trial and self._trial.registered != trial:
            self._trial = None
        if self._trial and tried and not tried.alive:
            self._trial.why = self._trial.why or "its engine died"
        if self._trial and self._trial.why:
            await self._pull_canary(self._trial)
            return
        self._canary.keep_loaded(canary)
        if self._trial:
            await self._write_counts(self._trial)
        elif trial and self._canary.failure:
            self._trial = CanaryTrial(trial, self._before)
            self._trial.why = "it cannot be loaded"
            await self._pull_canary(self._trial)
        elif trial and self._is_loaded(self._canary, canary) and self._is_loaded(self._champion, champion):
            self._trial, self._counts_written = CanaryTrial(trial, self._before), 0

    def _is_loaded(self, loader: Loader, version: Version | None) -> bool:
        return bool(version and loader.current and loader.current.version.name == version.name)

    async def _write_counts(self, trial: CanaryTrial) -> None:
        """Write down what this replica counted; the counts of all replicas together decide a trial at its end."""
        counted = trial.canary.requests + trial.champion.requests
        if counted != self._counts_written:
            figures = Figures() + trial.canary, Figures() + trial.champion  # copies, since a thread writes them
            await asyncio.to_thread(rollout.count, self._registry, trial.registered, self._replica, *figures)
            self._counts_written = counted

    async def _pull_canary(self, trial: CanaryTrial) -> None:
        self._canary.keep_loaded(None)
        await asyncio.to_thread(
            rollout.pull, self._registry, self._events, trial.registered, trial.why, trial.numbers()
        )

    def _guarded(
        self, chosen: Loaded, request: EngineRequest, counted: bool, spare: Callable[[], GuardedStream] | None = None
    ) -> GuardedStream:
        """Hand a request to an engine; gives its stream, guarded, and counted in the trial if it is to be."""
        if not chosen.alive:
            raise EngineDied
        stream = chosen.engine.generate(request)
        count = partial(self._count, chosen) if counted else _count_nothing
        return GuardedStream(chosen.version, stream, count, self._guard.watch(request.prompt), spare)

    def _count(self, chosen: Loaded, seconds: float, last: Chunk | None) -> None:
        """Count a request that has ended, with its last chunk; None: its engine failed."""
        trial, is_champion = self._trial, chosen is self.champion
        if not is_champion and (trial is None or chosen is not self._canary.current):
            return  # an engine that is on its way out
        figures = self._before
        if trial:
            figures = trial.champion if is_champion else trial.canary
        if last:
            figures.add(seconds, last.input_tokens, last.output_tokens)
            figures.rejected += last.finish_reason == "content_filter"
        else:
            figures.failed += 1
        if trial and not is_champion and trial.look_if_due():
            self._wake.set()  # nobody new goes to it already; now tell the registry

    async def _report_load(self, version: Version, seconds: float, error: Exception | None) -> None:
        fields = {
            "event.action": "load",
            "event.outcome": "failure" if error else "success",
            "event.duration": int(seconds * 1e9),
            "llmops.model.version": version.name,
            "error.message": f"{type(error).__name__}: {error}" if error else "",
        }
        try:
            await asyncio.to_thread(emit, self._events, LOADS, fields)
        except Exception:  # a full disk is no reason to stop watching
            log.exception("The event about loading %s is lost", version.name)


def _count_nothing(seconds: float, last: Chunk | None) -> None:
    """Stands for `_count` where a side was asked for, which does not count in a trial."""
