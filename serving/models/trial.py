"""A trial in this process: the callers of its version, the counts here and in other replicas, and the looks at them."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
import time
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from llmops.release import trials
from llmops.release.counts import GROUPS, SideCounts, assign_group
from llmops.release.registry.aliases import Canary
from llmops.release.registry.registry import Registry
from llmops.release.trials import TrialCounts
from llmops.release.verdict import Rules, count_looks, judge
from serving.engines.base import Chunk
from serving.errors import ClientLeft, QueueFull
from serving.models.stream import is_server_fault

log = logging.getLogger(__name__)

WRITE_S = 2.0  #: how often counts are written while requests come in; they are also written when a look is due


def is_drawn_to_canary(caller: str, canary: Canary) -> bool:
    """Return True if the canary answers this caller. The draw does not apply if the caller asks for a side.

    A caller keeps its side for the same version. A larger share adds callers and takes none away.
    """
    return assign_group(caller) in _draw_groups(canary.version, canary.share)


@lru_cache(maxsize=8)
def _draw_groups(version: str, share: float) -> frozenset[str]:
    """Return the groups of callers that a version answers, at least one. The hash of its name decides which."""
    order = sorted(map(str, range(GROUPS)), key=lambda group: hashlib.sha256(f"{group}:{version}".encode()).digest())
    return frozenset(order[: math.ceil(share * GROUPS)])


class CanaryTrial:
    """The counts of both sides of a canary's trial or an A/B test, and the looks for a regression."""

    def __init__(self, canary: Canary, rules: Rules) -> None:
        self.canary, self._rules = canary, rules
        self.own_counts = TrialCounts()  #: counts of this process
        self._other_counts = TrialCounts()  # the last known counts of the other replicas
        self._ratings = False
        self.pull_reason = ""  #: the regression or failure, once there is one; the canary then answers nobody
        self._numbers: Mapping[str, Any] = {}  # the numbers of the look that found the regression
        self._last_look = 0  # the latest look at the canary, by any replica
        self._requests = self._requests_elsewhere = 0  # requests of the canary
        self._changes = self._written = 0  # counted requests, and how many of them are in the database
        self._written_at = time.monotonic()

    def count(self, side: SideCounts, caller: str, seconds: float, end: Chunk | Exception) -> None:
        """Count a request of a side of `own_counts` that has ended (see `CountEnd`), but no mistake of its caller."""
        if isinstance(end, Chunk):
            side.add(caller, seconds, end.input_tokens, end.output_tokens, end.finish_reason == "content_filter")
        elif isinstance(end, QueueFull):
            side.count(caller, "refused")
        elif isinstance(end, ClientLeft):
            side.count(caller, "left")
        elif is_server_fault(end):
            side.count(caller, "failed")
        else:
            return
        self._changes += 1
        self._requests += side is self.own_counts.canary

    @property
    def look_due(self) -> bool:
        """Return True if enough requests have come for another look."""
        return not self.pull_reason and count_looks(self._requests + self._requests_elsewhere) > self._last_look

    async def sync_counts(self, registry: Registry, replica: str) -> None:
        """Write the counts of this process if it is time. If a look is due, judge the counts of all replicas."""
        late = self._changes > self._written and time.monotonic() >= self._written_at + WRITE_S
        if not (self.look_due or late):
            return
        counts, changes = TrialCounts() + self.own_counts, self._changes  # a copy for another thread
        written = await asyncio.to_thread(trials.write_counts, registry, self.canary, replica, counts)
        if written is None:  # the trial is over; the watcher will read that from the aliases
            return
        self._written, self._written_at = changes, time.monotonic()
        self._other_counts, self._ratings, self._last_look = (
            written.others,
            written.is_ab_test,
            max(self._last_look, written.look),
        )
        self._requests_elsewhere = written.others.canary.requests
        if written.look_due:
            await self._judge(written.others + counts)

    async def judge_alone(self) -> None:
        """Judge the trial while the database cannot be reached, if a look is due.

        The judgement uses this process's counts and the last known counts of the others.
        """
        if self.look_due:
            self._last_look = count_looks(self._requests + self._requests_elsewhere)
            await self._judge(self._other_counts + self.own_counts)

    async def finish(self, registry: Registry, replica: str) -> None:
        """Write the last counts. A failure is only logged, because the app ends."""
        try:
            counts = TrialCounts() + self.own_counts
            await asyncio.to_thread(trials.write_counts, registry, self.canary, replica, counts)
        except Exception:
            log.warning("The last counts of the trial of %s are lost", self.canary.version, exc_info=True)

    async def _judge(self, sides: TrialCounts) -> None:
        share, rules = self.canary.share, self._rules
        verdict = await asyncio.to_thread(judge, sides.canary, sides.champion, share, rules, ratings=self._ratings)
        if verdict.outcome == "regression" and not self.pull_reason:
            self._numbers, self.pull_reason = verdict.numbers, verdict.why

    def summarize(self) -> dict[str, Any]:
        """Return the numbers of the look that found a regression; without one, the counts so far."""
        sides = self._other_counts + self.own_counts
        return dict(self._numbers) or {"canary": sides.canary.summarize(), "champion": sides.champion.summarize()}
