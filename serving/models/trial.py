"""A trial in this process: who is answered by its version, how it goes here and elsewhere, and when it is pulled."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
import time
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from llmops.registry.aliases import Canary
from llmops.registry.registry import Registry
from llmops.release import trials
from llmops.release.figures import GROUPS, Figures, group_of
from llmops.release.trials import Sides
from llmops.release.verdict import Rules, judge, looks
from serving.engines.base import Chunk
from serving.errors import ClientLeft, QueueFull
from serving.models.stream import at_fault

log = logging.getLogger(__name__)

WRITE_S = 2.0  #: counts are written so often while requests come in, and whenever a look is due


def answered_by_canary(caller: str, canary: Canary) -> bool:
    """Return whether the canary answers this caller, while no side is asked for.

    A caller's side stays the same as long as the version does. A larger share adds callers and takes none away.
    """
    return group_of(caller) in _drawn(canary.version, canary.share)


@lru_cache(maxsize=8)
def _drawn(version: str, share: float) -> frozenset[str]:
    """Return the groups of callers that a version answers, at least one, in an order that is drawn by its name."""
    order = sorted(map(str, range(GROUPS)), key=lambda group: hashlib.sha256(f"{group}:{version}".encode()).digest())
    return frozenset(order[: math.ceil(share * GROUPS)])


class CanaryTrial:
    """Counts how both sides answer, and looks now and then for a regression; in an A/B test, too."""

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
        """Count a request on a side of `own` that has ended (see `CountEnd`); not one that its caller got wrong."""
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
        """Return True if enough requests have come for another look."""
        return not self.why and looks(self._asked + self._asked_elsewhere) > self._look

    async def settle(self, registry: Registry, replica: str) -> None:
        """Write down the counts of this process, if it is time, and take the look that is due at the counts of all."""
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
        """Judge the trial while the database cannot be reached, if a look is due.

        The judgement uses this process's counts and the last known counts of the others.
        """
        if self.look_due:
            self._look = looks(self._asked + self._asked_elsewhere)
            await self._judge(self._others + self.own)

    async def finish(self, registry: Registry, replica: str) -> None:
        """Write down the last counts; a failure is logged, so that nobody waits for it."""
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
        """Return the numbers of the look that found a regression; without one, the counts so far."""
        sides = self._others + self.own
        return dict(self._numbers) or {"canary": sides.canary.summary(), "champion": sides.champion.summary()}
