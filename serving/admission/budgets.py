"""The use of each key, and its monthly budget of tokens.

Requests are counted in memory. A task adds the counts to the database and reads what all processes together have
counted, so that no request waits for the database. In between, a budget may be passed by what other processes answer
in `SYNC_S`.

Before a request reaches the model, the most tokens that it could use are reserved, as for the limits per minute.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Mapping
from typing import Any

from llmops.access.roles import Key
from llmops.access.usage import UsageCell, add_usage, find_month_end, format_month, sum_budgeted_tokens
from llmops.events.figures.requests import classify_status
from llmops.frame.clock import SYSTEM_CLOCK, Clock
from llmops.state.database import Database
from serving.errors import BudgetUsed, LimitExceeded

log = logging.getLogger(__name__)

SYNC_S = 5.0  #: how often counts are added to the database, and the sums of all processes are read
RETRY_S = 1.0  #: when a caller may try again whose running requests have reserved the rest of a budget


class Budgets:
    """The counts of one app, and the used tokens of keys with a budget. All methods are called in the event loop.

    Args:
        database: the database that all processes share.
        name: name of the served model.
        clock: tells the month.
    """

    def __init__(self, database: Database, name: str, clock: Clock = SYSTEM_CLOCK) -> None:
        self._database, self._name, self._clock = database, name, clock
        self._counts: dict[UsageCell, Counter[str]] = {}  #: not in the database yet
        #: tokens of the month by key, in the database and in `_counts`
        self._month, self._used = format_month(clock.now()), Counter[str]()
        self._reserved: dict[str, tuple[str, int]] = {}  #: running request → its key's prefix, tokens
        self._syncing = asyncio.Lock()
        self._failing = False
        self._task: asyncio.Task[None] | None = None

    def count(self, event: Mapping[str, Any]) -> None:
        """Replace a request's reservation by the tokens in its event, even if its caller left before the end."""
        self.release(event.get("event.id", ""))
        requests = int(classify_status(event["http.response.status_code"]) == "answered")
        read, written = event.get("gen_ai.usage.input_tokens", 0), event.get("gen_ai.usage.output_tokens", 0)
        key, day, version = event.get("llmops.key.prefix"), event["@timestamp"][:10], event.get("llmops.model.version")
        if key and (requests or read or written):
            model = f"{self._name}:{version}" if version else event.get("gen_ai.request.model", self._name)
            count = self._counts.setdefault(UsageCell(key, day, model), Counter())
            count["requests"] += requests
            count["input_tokens"] += read
            count["output_tokens"] += written
            if day.startswith(self._month):
                self._used[key] += read + written

    def check(self, key: Key) -> None:
        """Check that the key has not used its tokens of this month.

        Raises:
            BudgetUsed: if it has.
        """
        if not key.tokens_per_month:
            return
        now = self._clock.now()
        if (month := format_month(now)) != self._month:
            self._begin(month, Counter())
        if (used := self._used[key.prefix]) >= key.tokens_per_month:
            end = find_month_end(month)
            raise BudgetUsed(key.tokens_per_month, used, end, (end - now).total_seconds())

    def reserve(self, key: Key, request: str, tokens: int) -> None:
        """Reserve the most tokens that a request could use, until it is counted or released.

        A request that could use more than the rest of the budget is admitted if the key has no other reservation. Only
        then can a key pass its budget, and by no more than this one answer.

        Raises:
            BudgetUsed: if the key has used its tokens of this month.
            LimitExceeded: if its running requests have reserved too many of the rest.
        """
        self.check(key)
        if not key.tokens_per_month:
            return
        reserved = sum(tokens for prefix, tokens in self._reserved.values() if prefix == key.prefix)
        left = key.tokens_per_month - self._used[key.prefix]
        if reserved and reserved + tokens > left:
            raise LimitExceeded(
                f"This key has {left} tokens of this month left, its running requests have reserved {reserved}, and "
                f"this request may take {tokens}; try again when one of them has ended.",
                RETRY_S,
            )
        self._reserved[request] = key.prefix, tokens

    def release(self, request: str) -> None:
        """Remove the reservation of a request, if it has one."""
        self._reserved.pop(request, None)

    async def synchronize(self) -> None:
        """Add the counts to the database, and read the sums of all processes. If that fails, keep the counts."""
        async with self._syncing:
            month, counts = format_month(self._clock.now()), self._counts
            self._counts = {}
            try:
                if counts:
                    await asyncio.to_thread(add_usage, self._database, counts)
                    counts = {}
                self._begin(month, await asyncio.to_thread(sum_budgeted_tokens, self._database, month))
                self._failing = False
            except Exception:  # answer callers even while the database is away
                for cell, count in counts.items():
                    self._counts.setdefault(cell, Counter()).update(count)
                if not self._failing:
                    log.exception("What keys use cannot be kept; this process counts by itself until it can")
                self._failing = True

    def start(self) -> None:
        """Start adding counts to the database."""
        self._task = asyncio.create_task(self._repeat(), name="budgets")

    async def stop(self) -> None:
        """Add the last counts."""
        if self._task:
            async with self._syncing:  # not between the database and the counts
                self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        if self._counts:
            await self.synchronize()

    def _begin(self, month: str, used: Counter[str]) -> None:
        """Set the used tokens of a month to a sum from the database and the counts that are not there yet."""
        self._month, self._used = month, used
        for cell, count in self._counts.items():
            if cell.day.startswith(month):
                self._used[cell.key] += count["input_tokens"] + count["output_tokens"]

    async def _repeat(self) -> None:
        while True:
            await self.synchronize()
            await asyncio.sleep(SYNC_S)
