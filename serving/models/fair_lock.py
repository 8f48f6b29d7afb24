"""A lock that keys have in turn: whoever asks with many requests waits for others no less than they for him."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class FairLock:
    """The lock; used in one event loop."""

    def __init__(self) -> None:
        self._held, self._turns = False, 0
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}  # by key
        self._last: dict[str, int] = {}  # by key, which turn its last one was, since nobody has waited

    @asynccontextmanager
    async def turn(self, key: str) -> AsyncIterator[None]:
        """Have it; who waits with the same key has it in the order in which it was asked for."""
        if self._held:
            await self._wait(key)
        self._held = True
        self._turns += 1
        self._last[key] = self._turns
        try:
            yield
        finally:
            self._hand_on()

    async def _wait(self, key: str) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # it was given the lock, and will not use it
                self._hand_on()
            raise

    def _hand_on(self) -> None:
        """Give it to the key whose last turn is the longest ago; it stays held, so that nobody comes between."""
        for key in sorted(self._waiting, key=lambda key: self._last.get(key, 0)):
            queue = self._waiting.pop(key)
            while queue:
                turn = queue.popleft()
                if turn.cancelled():
                    continue
                if queue:
                    self._waiting[key] = queue
                turn.set_result(None)
                return
        self._held = False
        self._last.clear()
