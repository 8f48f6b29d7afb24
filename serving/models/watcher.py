"""The models that answer, and the watcher that follows the registry's aliases.

A new champion is loaded and warmed up beside the old one. Then it takes over in one assignment; the old engine answers
its accepted requests and is closed. A version that cannot be loaded changes only the status at `/readyz`. A canary is
loaded beside the champion, answers its share of the callers, and is pulled as soon as there is a regression. A promoted
canary is not loaded again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import secrets
import socket
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from llmops.frame.errors import StateError
from llmops.release import rollout, trials
from llmops.release.registry.registry import Registry
from llmops.release.registry.version import Version
from llmops.release.verdict import Rules
from serving.engines.base import Chunk, Engine, EngineRequest, Prompt, TokenIds
from serving.errors import EngineDied, NotReady, QueueFull, VersionNotLoaded
from serving.guard import Guard
from serving.models.loader import LoadedVersion, Loader, report_load
from serving.models.stream import CountEnd, GuardedStream
from serving.models.tested_version import TestedVersion
from serving.models.trial import CanaryTrial, is_drawn_to_canary

log = logging.getLogger(__name__)


class Models:
    """The loaded champion and canary, which get the requests.

    All methods run in the event loop's thread; blocking work is done in other threads. `make_engine` returns the engine
    of a version, not yet loaded. The aliases are read every `poll_s`. Without `trials`, only the champion is loaded.
    """

    def __init__(
        self,
        registry: Registry,
        make_engine: Callable[[Version], Engine],
        poll_s: float,
        events: Path,
        guard: Guard,
        rules: Rules | None = None,
        test_idle_s: float = 0.0,
        trials: bool = True,
    ) -> None:
        self._registry, self._poll_s, self._events, self._guard = registry, poll_s, events, guard
        self._rules, self._trials = rules or Rules(), trials
        report = partial(report_load, events)
        self._champion, self._canary = Loader(make_engine, report), Loader(make_engine, report)
        self.tested = TestedVersion(registry, make_engine, report, test_idle_s)
        self._trial: CanaryTrial | None = None
        self._replica = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"  # a restart counts for itself
        self._registry_error: Exception | None = None
        self._registry_read = -math.inf  # when it was read last, in monotonic seconds
        self._last_champion: Version | None = None  # the champion at the last reading of the registry
        self._wake = asyncio.Event()  # ends the pause between two readings of the aliases
        self._task: asyncio.Task[None] | None = None

    @property
    def champion(self) -> LoadedVersion | None:
        """Return the champion if it is loaded."""
        return self._champion.current

    @property
    def canary(self) -> LoadedVersion | None:
        """Return the canary while it answers."""
        return self._canary.current if self._trial and not self._trial.pull_reason else None

    @property
    def loaded(self) -> tuple[LoadedVersion, ...]:
        """Return all versions that answer now, the champion first."""
        return tuple(one for one in (self.champion, self.canary) if one)

    @property
    def system_prompt(self) -> str:
        """Return the longest system prompt of these versions."""
        return max((one.version.system_prompt for one in self.loaded), key=lambda text: len(text.encode()), default="")

    @property
    def database_lost_s(self) -> float:
        """Return the seconds since the registry was last read, if its database cannot be asked now; else 0."""
        return time.monotonic() - self._registry_read if isinstance(self._registry_error, StateError) else 0.0

    def choose(self, caller: str, side: str = "") -> LoadedVersion:
        """Return the version and engine that answer a caller now. `caller` is the key's `answered_to`.

        Keys of one owner are one caller: otherwise one owner with ten keys would weigh as ten callers in a trial.
        If the caller asks for no `side`, the caller is drawn to one.

        Raises:
            NotReady: if no champion is loaded, with the reason.
            VersionNotLoaded: if the side that the caller asks for is not loaded.
        """
        champion, canary = self.champion, self.canary
        if tested := self.tested.find_loaded(caller, side):
            return tested
        if champion is None:
            raise NotReady(self.explain())
        if not side:
            return canary if canary and self._trial and is_drawn_to_canary(caller, self._trial.canary) else champion
        if side in ("champion", champion.version.name):
            return champion
        if canary and side in ("canary", canary.version.name):
            return canary
        loaded = ", ".join(one.version.name for one in self.loaded)
        raise VersionNotLoaded(f"{side!r} is not loaded; these versions are: {loaded}.")

    def get_side(self, chosen: LoadedVersion) -> str:
        """Return the side of a version: `champion`, `canary`, or `tested`."""
        return "champion" if chosen is self.champion else "canary" if chosen is self.canary else "tested"

    def generate(
        self, request: EngineRequest, *, caller: str, side: str = "", caller_prompt: Prompt | None = None
    ) -> GuardedStream:
        """Pass a request to the engine of the version that `choose` returns; return the stream of the answer.

        If the canary's engine has no room, or fails or refuses the prompt before its first chunk, the champion answers
        the callers who are drawn to the canary. A prompt of token ids gets no other answer, because they belong to one
        version's tokenizer.

        A request that asks for a side does not count in a trial. An answer of the champion in place of the canary does
        not count either, except as the canary's failure: neither is a fair sample of the champion's callers.

        If passages of documents were added to the prompt, `caller_prompt` is the prompt as the caller wrote it.

        Raises:
            NotReady, VersionNotLoaded: see `choose`.
            QueueFull: if too many requests wait.
            QueueShareFull: if too many requests of this caller wait. It does not count in a trial.
            EngineDied: if the engine has died and is being restarted.
        """
        chosen, trial, fallback, mark = self.choose(caller, side), self._trial, None, ""
        if side:
            return self._start_stream(chosen, request, _skip_count, caller_prompt=caller_prompt)
        if chosen is not self.champion and not isinstance(request.prompt, TokenIds):
            fallback = partial(
                self._start_stream, self.champion or chosen, request, _skip_count, caller_prompt=caller_prompt
            )
        if trial:
            mark = trials.make_mark(trial.canary, "champion" if chosen is self.champion else "canary", caller)
        count = partial(self._count, chosen, trial, caller)
        try:
            stream = self._start_stream(chosen, request, count, fallback, mark, caller_prompt)
        except (QueueFull, EngineDied) as error:
            # While a champion is down, its callers try again and again, so its deaths do not count.
            if chosen is not self.champion or isinstance(error, QueueFull):
                count(0.0, error)
            if fallback is None:
                raise
            stream = fallback()
        return stream

    def count_failure(self, chosen: LoadedVersion, caller: str, error: Exception) -> None:
        """Count an error of a version for a caller who was drawn to it, before its engine got the request."""
        self._count(chosen, self._trial, caller, 0.0, error)

    def explain(self) -> str:
        """Return why no model answers, or why a newer version is not loaded; empty if all is well.

        Anybody may read it, so it has no error messages. `explain_with_error` has them.
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

    def explain_with_error(self) -> str:
        """Return `explain` and the error's message, for callers who may see paths of this machine."""
        failure = self._champion.failure
        error = self._registry_error or (failure.error if failure else None)
        return f"{self.explain()} {error}" if error else self.explain()

    def start(self) -> None:
        """Start the watcher."""
        self._task = asyncio.create_task(self._watch(), name="models")

    async def stop(self) -> None:
        """Stop the watcher, close the engines after their accepted requests, and write the counts."""
        if self._task:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await asyncio.gather(self._champion.close(), self._canary.close(), self.tested.close())
        if self._trial:
            await self._trial.finish(self._registry, self._replica)

    async def _watch(self) -> None:
        while True:
            self._wake.clear()
            try:
                await self._follow_aliases()
                self._registry_error, self._registry_read = None, time.monotonic()
            except Exception as error:  # go on watching, so that a repaired registry is noticed
                if not self._registry_error:
                    log.exception("The registry cannot be read or written")
                self._registry_error = error
                if self._last_champion:  # restart its engine if it dies
                    self._champion.keep_loaded(self._last_champion)
                self._notice_dead_canary()
                if self._trial:
                    await self._trial.judge_alone()
            with contextlib.suppress(TimeoutError):  # `wait_for` may swallow a cancellation in Python 3.11
                async with asyncio.timeout(self._poll_s):
                    await self._wake.wait()

    async def _follow_aliases(self) -> None:
        """Read the aliases once, and load the versions they name. Start, count or end a canary's trial."""
        self.tested.close_if_idle()
        champion, canary, trial = await asyncio.to_thread(self._registry.read_served)
        if not self._trials:
            canary = trial = None
        loaded = self._canary.current
        if champion and loaded and loaded.alive and loaded.version.name == champion.name:
            self._champion.take_over(self._canary.hand_over() or loaded)  # the canary was promoted
        if champion:  # without a champion, the old engine goes on answering
            self._last_champion = champion
            self._champion.keep_loaded(champion)
        if self._trial and self._trial.canary != trial:
            self._trial = None
        self._notice_dead_canary()
        if self._trial and self._trial.pull_reason:
            await self._pull_canary(self._trial)
            return
        self._canary.keep_loaded(canary)
        both_loaded = self._canary.is_loaded(canary) and self._champion.is_loaded(champion)
        unreadable = bool(trial) and canary is None
        failed = unreadable or self._canary.failure
        if self._trial and not unreadable:
            await self._trial.sync_counts(self._registry, self._replica)
        elif trial and (failed or both_loaded):
            self._trial = self._trial or CanaryTrial(trial, self._rules)
            self._trial.pull_reason = "it cannot be loaded" if failed else ""
        if self._trial and self._trial.pull_reason:
            await self._pull_canary(self._trial)

    def _notice_dead_canary(self) -> None:
        """Set the reason to pull a canary whose engine has died, so that it gets no more requests."""
        loaded = self._canary.current
        if self._trial and loaded and not loaded.alive:
            self._trial.pull_reason = self._trial.pull_reason or "its engine died"

    async def _pull_canary(self, trial: CanaryTrial) -> None:
        self._canary.keep_loaded(None)
        await asyncio.to_thread(
            rollout.pull, self._registry, self._events, trial.canary, trial.pull_reason, trial.summarize()
        )

    def _start_stream(
        self,
        chosen: LoadedVersion,
        request: EngineRequest,
        count: CountEnd,
        fallback: Callable[[], GuardedStream] | None = None,
        mark: str = "",
        caller_prompt: Prompt | None = None,
    ) -> GuardedStream:
        """Pass a request to an engine; return its stream, which is guarded, and counted at its end."""
        if not chosen.alive:
            raise EngineDied
        stream, filter = chosen.engine.generate(request), self._guard.make_filter(caller_prompt or request.prompt)
        return GuardedStream(chosen.version, stream, count, filter, fallback, mark, self.get_side(chosen))

    def _count(
        self, chosen: LoadedVersion, started_in: CanaryTrial | None, caller: str, seconds: float, end: Chunk | Exception
    ) -> None:
        """Count a request in the trial that it started in, if that trial still runs."""
        trial, is_champion = self._trial, chosen is self.champion
        if not is_champion and chosen is not self._canary.current:
            return  # the engine is being replaced
        if trial and trial is started_in:
            trial.count(trial.own_counts.champion if is_champion else trial.own_counts.canary, caller, seconds, end)
            if trial.look_due:
                self._wake.set()


def _skip_count(seconds: float, end: Chunk | Exception) -> None:
    """Do nothing, in place of `Models._count`, for a request that does not count in a trial."""
