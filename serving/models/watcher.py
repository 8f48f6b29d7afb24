"""The models that answer, and the watcher that follows the registry's aliases.

A new champion is loaded and warmed up beside the old one; then one assignment makes it the one that answers, and the
old engine answers what it had accepted and is closed. A version that cannot be loaded changes nothing but the status
that `/readyz` tells. A canary is loaded beside the champion, answers its share of the callers, and is pulled as soon as
there is a regression; one that is promoted is not loaded again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path

from llmops.registry.registry import Registry
from llmops.registry.version import Version
from llmops.release import rollout, trials
from llmops.release.verdict import Rules
from serving.engines.base import Chunk, Engine, EngineRequest, Prompt, TokenIds
from serving.errors import EngineDied, NotReady, QueueFull, VersionNotLoaded
from serving.guard import Guard
from serving.models.loader import Loaded, Loader, report_load
from serving.models.stream import CountEnd, GuardedStream
from serving.models.tested import Tested
from serving.models.trial import CanaryTrial, answered_by_canary

log = logging.getLogger(__name__)


class Models:
    """Keeps champion and canary loaded, and hands requests to their engines.

    All methods run in the event loop's thread; work that blocks is done in others. `engine_for` makes the engine of a
    version, not loaded yet. The aliases are read every `poll_s`; without `trials` only the champion is followed.
    """

    def __init__(
        self,
        registry: Registry,
        engine_for: Callable[[Version], Engine],
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
        self._champion, self._canary = Loader(engine_for, report), Loader(engine_for, report)
        self.tested = Tested(registry, engine_for, report, test_idle_s)
        self._trial: CanaryTrial | None = None
        self._replica = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"  # a restart counts for itself
        self._registry_error: Exception | None = None
        self._wanted: Version | None = None  # the champion, when the registry could be read last
        self._wake = asyncio.Event()  # ends the pause between two readings of the aliases
        self._task: asyncio.Task[None] | None = None

    @property
    def champion(self) -> Loaded | None:
        """Return the champion if it is loaded."""
        return self._champion.current

    @property
    def canary(self) -> Loaded | None:
        """Return the canary while it answers."""
        return self._canary.current if self._trial and not self._trial.why else None

    @property
    def loaded(self) -> tuple[Loaded, ...]:
        """Return all versions that answer now, the champion first."""
        return tuple(one for one in (self.champion, self.canary) if one)

    def choose(self, caller: str, side: str = "") -> Loaded:
        """Return the version, with its engine, that answers the caller with this key's prefix now.

        Without a `side` that the caller asks for, the caller is drawn to one.

        Raises:
            NotReady: if no champion is loaded, with the reason.
            VersionNotLoaded: if the side that is asked for is not there.
        """
        champion, canary = self.champion, self.canary
        if tested := self.tested.loaded_for(caller, side):
            return tested
        if champion is None:
            raise NotReady(self.reason())
        if not side:
            return canary if canary and self._trial and answered_by_canary(caller, self._trial.registered) else champion
        if side in ("champion", champion.version.name):
            return champion
        if canary and side in ("canary", canary.version.name):
            return canary
        raise VersionNotLoaded(f"{side!r} is not loaded; there are: {', '.join(o.version.name for o in self.loaded)}.")

    def side_of(self, chosen: Loaded) -> str:
        """Return the side of a version: `champion`, `canary`, or `tested`."""
        return "champion" if chosen is self.champion else "canary" if chosen is self.canary else "tested"

    def generate(
        self, request: EngineRequest, *, caller: str, side: str = "", asked: Prompt | None = None
    ) -> GuardedStream:
        """Hand a request to the engine of the version that `choose` gives; return the stream of the answer.

        A caller who is drawn to the canary does not suffer from it: if the canary's engine has no room, or fails or
        refuses the prompt before its first chunk, the champion answers instead, and the stream's version says so. Only
        a prompt of token ids is not handed on, since they are those of one version's tokenizer.

        A request that asks for a side does not count in a trial, nor does an answer of the champion in place of the
        canary: neither is a fair sample of the champion's callers. The hand-over counts, for the canary.

        If passages of documents were added to the request's prompt, `asked` is the prompt as the caller wrote it.

        Raises:
            NotReady, VersionNotLoaded: see `choose`.
            QueueFull: if too many requests wait.
            EngineDied: if the engine has died and is being restarted.
        """
        chosen, trial, spare, mark = self.choose(caller, side), self._trial, None, ""
        if side:
            return self._guarded(chosen, request, _left_out, asked=asked)
        if chosen is not self.champion and not isinstance(request.prompt, TokenIds):
            spare = partial(self._guarded, self.champion or chosen, request, _left_out, asked=asked)
        if trial:
            mark = trials.mark(trial.registered, "champion" if chosen is self.champion else "canary", caller)
        count = partial(self._count, chosen, trial, caller)
        try:
            stream = self._guarded(chosen, request, count, spare, mark, asked)
        except (QueueFull, EngineDied) as error:
            if chosen is not self.champion or isinstance(error, QueueFull):  # while a champion is down, many ask again
                count(0.0, error)
            if spare is None:
                raise
            stream = spare()
        return stream

    def count_failure(self, chosen: Loaded, caller: str, error: Exception) -> None:
        """Count that a version failed a caller who was drawn to it before its engine was asked."""
        self._count(chosen, self._trial, caller, 0.0, error)

    def reason(self) -> str:
        """Say why no model answers, or what is wrong with a newer version; empty if all is well.

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
        """Return `reason` and the words of the error, for those who may see paths of this machine."""
        failure = self._champion.failure
        error = self._registry_error or (failure.error if failure else None)
        return f"{self.reason()} {error}" if error else self.reason()

    def start(self) -> None:
        """Begin to watch."""
        self._task = asyncio.create_task(self._watch(), name="models")

    async def stop(self) -> None:
        """End watching, let the engines answer what they have accepted, and write down the counts."""
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
                self._registry_error = None
            except Exception as error:  # a damaged registry must not end the watching that would see it mended
                if not self._registry_error:
                    log.exception("The registry cannot be read or written")
                self._registry_error = error
                if self._wanted:  # an engine that dies now is started again all the same
                    self._champion.keep_loaded(self._wanted)
                self._notice_death()
                if self._trial:
                    await self._trial.settle_alone()
            with contextlib.suppress(TimeoutError):  # not `wait_for`: in Python 3.11 it may swallow a cancellation
                async with asyncio.timeout(self._poll_s):
                    await self._wake.wait()

    async def _follow_aliases(self) -> None:
        """Read the aliases once and act on them: load what they name; begin, write down or end a canary's trial."""
        self.tested.close_if_idle()
        champion, canary, trial = await asyncio.to_thread(self._registry.served)
        if not self._trials:
            canary = trial = None
        tried = self._canary.current
        if champion and tried and tried.alive and tried.version.name == champion.name:
            self._champion.take_over(self._canary.hand_over() or tried)  # the canary was promoted
        if champion:  # an engine that answers is never taken away for nothing
            self._wanted = champion
            self._champion.keep_loaded(champion)
        if self._trial and self._trial.registered != trial:
            self._trial = None
        self._notice_death()
        if self._trial and self._trial.why:
            await self._pull_canary(self._trial)
            return
        self._canary.keep_loaded(canary)
        both, unreadable = self._canary.has(canary) and self._champion.has(champion), bool(trial) and canary is None
        failed = unreadable or self._canary.failure
        if self._trial and not unreadable:
            await self._trial.settle(self._registry, self._replica)
        elif trial and (failed or both):
            self._trial = self._trial or CanaryTrial(trial, self._rules)
            self._trial.why = "it cannot be loaded" if failed else ""
        if self._trial and self._trial.why:
            await self._pull_canary(self._trial)

    def _notice_death(self) -> None:
        """Stop answering by a canary whose engine has died."""
        tried = self._canary.current
        if self._trial and tried and not tried.alive:
            self._trial.why = self._trial.why or "its engine died"

    async def _pull_canary(self, trial: CanaryTrial) -> None:
        self._canary.keep_loaded(None)
        await asyncio.to_thread(
            rollout.pull, self._registry, self._events, trial.registered, trial.why, trial.numbers()
        )

    def _guarded(
        self,
        chosen: Loaded,
        request: EngineRequest,
        count: CountEnd,
        spare: Callable[[], GuardedStream] | None = None,
        mark: str = "",
        asked: Prompt | None = None,
    ) -> GuardedStream:
        """Hand a request to an engine; return its stream, guarded, and counted at its end."""
        if not chosen.alive:
            raise EngineDied
        stream, watch = chosen.engine.generate(request), self._guard.watch(asked or request.prompt)
        return GuardedStream(chosen.version, stream, count, watch, spare, mark, self.side_of(chosen))

    def _count(
        self, chosen: Loaded, begun: CanaryTrial | None, caller: str, seconds: float, end: Chunk | Exception
    ) -> None:
        """Count a request in the trial that it began in, if that goes on."""
        trial, is_champion = self._trial, chosen is self.champion
        if not is_champion and chosen is not self._canary.current:
            return  # an engine that is on its way out
        if trial and trial is begun:
            trial.count(trial.own.champion if is_champion else trial.own.canary, caller, seconds, end)
            if trial.look_due:
                self._wake.set()


def _left_out(seconds: float, end: Chunk | Exception) -> None:
    """Do nothing, in place of `_count`, for a request that does not count in a trial."""
