"""A trial in this process: who is answered by its version, how it went here and elsewhere, and when it is pulled."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
import time
from typing import Any

from llmops.registry.aliases import Canary
from llmops.registry.registry import Registry
from llmops.release import trials
from llmops.release.canary import Verdict, bound, compare, looks
from llmops.release.figures import Figures
from llmops.release.trials import Sides
from serving.engines.base import Chunk
from serving.errors import ClientLeft, QueueFull
from serving.models.stream import at_fault

log = logging.getLogger(__name__)

WRITE_S = 2.0  #: counts are written so often while requests come in, and whenever a look is due


def answered_by_canary(caller: str, canary: Canary) -> bool:
    """Whether the canary answers this caller, while no side is asked for.

    It is drawn from the key's prefix and the version: it stays the same for a caller as long as the version does, and a
    larger share adds callers and takes none away.
    """
    digest = hashlib.sha256(f"{caller}:{canary.version}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < canary.share * 2**64


class CanaryTrial:
    """Counts how both sides answer, and looks now and then whether the canary is worse; an A/B test's version, too.

    Args:
        canary: the registry's entry of the trial.
        before: how the champion answered before the trial.
        objective_s: what an answer may take, in seconds.
    """

    def __init__(self, canary: Canary, before: Figures, objective_s: float = math.inf) -> None:
        self.registered, self._objective_s = canary, objective_s
        self.own = Sides(before=before)  #: what this process has counted
        self._others = Sides()  # what the other replicas had, when last heard of
        self.why = ""  #: what is wrong with the canary, once that is known; nobody is answered by it any more
        self._verdict: Verdict | None = None
        self._look = 0  # the latest that was taken of the canary, by anybody
        self._asked = 0  # requests of the canary, here
        self._asked_elsewhere = 0
        self._changes = self._written = 0  # what was counted, and what of it others know
        self._written_at = time.monotonic()

    def count(self, side: Figures, caller: str, seconds: float, end: Chunk | Exception) -> None:
        """Count a request that has ended.

        Args:
            side: of `own`.
            caller: the prefix of its key.
            seconds, end: see `CountEnd`.
        """
        if note(side, caller, seconds, end):
            self._changes += 1
            self._asked += side is self.own.canary

    @property
    def look_due(self) -> bool:
        """Whether so many requests have come that another look is due."""
        return not self.why and looks(self._asked + self._asked_elsewhere) > self._look

    async def settle(self, registry: Registry, replica: str) -> None:
        """Write down what was counted here, if it is time; take the look that is then due at what all have counted.

        Args:
            registry: of the model.
            replica: the name of this process.
        """
        late = self._changes > self._written and time.monotonic() >= self._written_at + WRITE_S
        if not (self.look_due or late):
            return
        own, upto = self._copy(), self._changes
        written = await asyncio.to_thread(trials.write, registry, self.registered, replica, own)
        if written is None:  # it is over, as the next reading of the aliases says
            return
        self._written, self._written_at = upto, time.monotonic()
        self._others, self._look = written.others, max(self._look, written.look)
        self._asked_elsewhere = written.others.canary.requests
        sides = written.others + own
        if written.due:
            await asyncio.to_thread(self._judge, sides)
        if written.ab_look and not self.why:
            await asyncio.to_thread(trials.look_at_ab_test, registry, self.registered, sides, written.ab_look)

    async def settle_alone(self) -> None:
        """While the database cannot be reached: take the look that is due, at what was counted here and what is known
        of the other replicas. Each of them goes on by itself then."""
        if self.look_due:
            self._look = looks(self._asked + self._asked_elsewhere)
            await asyncio.to_thread(self._judge, self._others + self.own)

    async def finish(self, registry: Registry, replica: str) -> None:
        """Write down the last counts; if that cannot be, nobody is to wait for it."""
        try:
            await asyncio.to_thread(trials.write, registry, self.registered, replica, self._copy())
        except Exception:
            log.warning("The last counts of the trial of %s are lost", self.registered.version, exc_info=True)

    def _copy(self) -> Sides:
        """What was counted here so far, for another thread."""
        return Sides() + self.own

    def _judge(self, sides: Sides) -> None:
        """Compare both sides; takes a tenth of a second where there are hundreds of callers."""
        usual: dict[str, Any] = {"before": sides.before, "objective_s": self._objective_s}
        share, level = self.registered.share, bound(self._look)
        verdict = compare(sides.canary, sides.champion, level, share=share, **usual)
        if verdict.worse and not self.why:
            self._verdict, self.why = verdict, verdict.text()

    def numbers(self) -> dict[str, Any]:
        """The figures of the look that found the canary worse; if none did, what was counted so far."""
        if self._verdict:
            return self._verdict.numbers()
        everything = self._others + self.own
        return {"canary": everything.canary.summary(), "champion": everything.champion.summary()}


def note(side: Figures, caller: str, seconds: float, end: Chunk | Exception) -> bool:
    """Count in a side's figures how a request has ended; False: by a mistake of the caller, which counts nowhere."""
    if isinstance(end, Chunk):
        side.add(caller, seconds, end.input_tokens, end.output_tokens, end.finish_reason == "content_filter")
    elif isinstance(end, QueueFull):
        side.refuse(caller)
    elif isinstance(end, ClientLeft):
        side.leave(caller)
    elif at_fault(end):
        side.fail(caller)
    else:
        return False
    return True
