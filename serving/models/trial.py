"""A trial in this process: who is answered by its version, how it goes here and elsewhere, and when it is pulled."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Mapping
from typing import Any

from llmops.registry.aliases import Canary
from llmops.registry.registry import Registry
from llmops.release import trials
from llmops.release.figures import Figures, group_of
from llmops.release.trials import Sides
from llmops.release.verdict import Rules, judge, looks
from serving.engines.base import Chunk
from serving.errors import ClientLeft, QueueFull
from serving.models.stream import at_fault

log = logging.getLogger(__name__)

WRITE_S = 2.0  #: counts are written so often while requests come in, and whenever a look is due


def answered_by_canary(caller: str, canary: Canary) -> bool:
    """Return whether the canary answers this caller, while no side is asked for.

    Groups of callers are drawn by their number and the version: a caller's side stays the same as long as the version
    does, and a larger share adds groups and takes none away.
    """
    digest = hashlib.sha256(f"{group_of(caller)}:{canary.version}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < canary.share * 2**64


class CanaryTrial:
    """Counts how both sides answer, and looks now and then for a regression; in an A/B test, too.

    Args:
        canary: the registry's entry of the trial.
        rules: conditions of the trial.
    """

    def __init__(self, canary: Canary, rules: Rules) -> None:
        self.registered, self._rules = canary, rules
        self.own = Sides()  #: counts of this process
        self._others = Sides()  # counts of the other replicas, when last heard of
        self._ratings = False
        self.why = ""  #: the regression, once there is one; nobody is answered by the canary any more
        self._numbers: Mapping[str, Any] = {}  # of the look that found it
        self._look = 0  # the latest that was taken of the canary, by anybody
        self._asked = self._asked_elsewhere = 0  # requests of the canary
        self._changes = self._written = 0  # what was counted, and what of it others know
        self._written_at = time.monotonic()

    def count(self, side: Figures, caller: str, seconds: float, end: Chunk | Exception) -> None:
        """Count a request that has ended; not one that failed by a mistake of the caller.

        Args:
            side: of `own`.
            caller: the prefix of its key.
            seconds, end: see `CountEnd`.
        """
        if isinstance(end, Chunk):
            side.add(caller, seconds, end.input_tokens, end.output_tokens, end.finish_reason == "content_filter")
        elif isinstance(end, QueueFull):
            side.count(caller, "refused")
        elif isinstance(end, ClientLeft):
            side.count(caller, "left")
        elif at_fault(end):
            side.count(caller, "failed")
        else:
            return
        self._changes += 1
        self._asked += side is self.own.canary

    @property
    def look_due(self) -> bool:
        """Whether so many requests have come that another look is due."""
        return not self.why and looks(self._asked + self._asked_elsewhere) > self._look

    async def settle(self, registry: Registry, replica: str) -> None:
        """Write down what was counted here, if it is time, and take the look that is then due at the counts of all.

        Args:
            registry: of the model.
            replica: the name of this process.
        """
        late = self._changes > self._written and time.monotonic() >= self._written_at + WRITE_S
        if not (self.look_due or late):
            return
        own, upto = Sides() + self.own, self._changes  # a copy for another thread
        written = await asyncio.to_thread(trials.write, registry, self.registered, replica, own)
        if written is None:  # it is over, as the next reading of the aliases says
            return
        self._written, self._written_at = upto, time.monotonic()
        self._others, self._ratings, self._look = written.others, written.ratings, max(self._look, written.look)
        self._asked_elsewhere = written.others.canary.requests
        if written.due:
            await self._judge(written.others + own)

    async def settle_alone(self) -> None:
        """Take the look that is due while the database cannot be reached, at the counts of this process and those that
        are known of the others."""
        if self.look_due:
            self._look = looks(self._asked + self._asked_elsewhere)
            await self._judge(self._others + self.own)

    async def finish(self, registry: Registry, replica: str) -> None:
        """Write down the last counts; if that cannot be, nobody is to wait for it."""
        try:
            await asyncio.to_thread(trials.write, registry, self.registered, replica, Sides() + self.own)
        except Exception:
            log.warning("The last counts of the trial of %s are lost", self.registered.version, exc_info=True)

    async def _judge(self, sides: Sides) -> None:
        asked = self.registered.share, self._rules
        found = await asyncio.to_thread(judge, sides.canary, sides.champion, *asked, ratings=self._ratings)
        if found.word == "regression" and not self.why:
            self._numbers, self.why = found.numbers, found.why

    def numbers(self) -> dict[str, Any]:
        """Return the numbers of the look that found a regression; without one, what was counted so far."""
        everything = self._others + self.own
        counts = {"canary": everything.canary.summary(), "champion": everything.champion.summary()}
        return dict(self._numbers) or counts
