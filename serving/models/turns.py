"""A fair queue in front of an engine: keys take turns, and none keeps the others out.

The engine is given no more than its batch and a little ahead; what waits, waits here. Whenever there is room, it goes
to the key with the fewest requests in the engine, and of several to the one that has waited longest for its turn
(max-min fairness). A key may have all places while nobody else asks. In a full queue a request of a key with fewer
places takes that of the last one of the key with the most, which gets 429. The answers to one
HTTP request give their places together, as some of them are of no use; those that have begun do so last.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter, deque
from collections.abc import AsyncIterator

from llmops.errors import LlmopsError
from serving.engines.base import Chunk, Engine, EngineRequest, Stats, Stream
from serving.errors import QueueFull

LOOK_S = 0.01  #: so often it is looked whether the engine has room, while requests wait


class Turns:
    """An engine whose requests wait fairly. `generate`, and the streams it gives, belong to one event loop.

    Args:
        engine: that answers.
        max_queue: requests that may wait while the batch is full.
        max_batch: most requests that are answered together.
    """

    def __init__(self, engine: Engine, max_queue: int, max_batch: int) -> None:
        self._engine, self._max_queue, self._max_batch = engine, max_queue, max_batch
        self._ahead = max(1, max_batch // 8)  # so that a row that becomes free is taken at the next step
        self._waiting: dict[str, deque[Place]] = {}  # by key, in the order of their turns
        self._places: Counter[str] = Counter()  # by key, those in the engine included
        self._batches: dict[str, list[Place]] = {}  # those that have not left
        self._begun: set[str] = set()  # batches of which the engine was given one
        self._timer: asyncio.TimerHandle | None = None
        self._answer_s = 1.0  # how long a request takes, as the last ones did

    def load(self) -> None:
        """See `Engine`."""
        self._engine.load()

    def stats(self) -> Stats:
        """See `Engine`."""
        stats = self._engine.stats()
        return Stats(stats.alive, stats.waiting + self._queued(), stats.running)

    def close(self) -> None:
        """See `Engine`."""
        while self._waiting and self._engine.stats().alive:
            time.sleep(LOOK_S)
        self._engine.close()

    def generate(self, request: EngineRequest) -> Stream:
        """See `Engine`."""
        place, key = Place(self, request), request.caller
        if not self._waiting and self._has_room():
            place.begin_with(self._engine.generate(request))
            self._take(place)
            self._note_begun(request.batch)
            return place
        waiting = self.stats().waiting + self.stats().running - self._max_batch
        if waiting >= self._max_queue:
            full = QueueFull(waiting, max(1, math.ceil(self._answer_s * waiting / self._max_batch)))
            greediest = max(self._waiting, key=lambda one: self._places[one], default=key)
            if self._places[greediest] < self._places[key] + 2:
                raise full
            self._displace(greediest, full)
        self._waiting.setdefault(key, deque()).append(place)
        self._take(place)
        self._hand_on()
        return place

    def leave(self, place: Place) -> None:
        """Take back the place of a request that has ended or is not wanted any more."""
        key, began = place.request.caller, place.begun_at
        self._unqueue(place)
        self._places[key] -= 1
        if not self._places[key]:
            del self._places[key]
        if batch := self._batches.get(place.request.batch):
            batch.remove(place)
            if not batch:
                del self._batches[place.request.batch]
                self._begun.discard(place.request.batch)
        if began:
            self._answer_s += ((time.perf_counter_ns() - began) / 1e9 - self._answer_s) / 8
            self._hand_on()

    def _hand_on(self) -> None:
        """Give the engine what it has room for; a dead one takes all, and tells them."""
        while self._waiting and self._has_room():
            key = min(self._waiting, key=lambda one: self._places[one] - len(self._waiting[one]))
            place = self._waiting[key][0]
            self._unqueue(place)
            if key in self._waiting:
                self._waiting[key] = self._waiting.pop(key)  # the others come first now
            self._note_begun(place.request.batch)
            try:
                place.begin_with(self._engine.generate(place.request))
            except LlmopsError as error:
                place.push(error)
        if self._waiting and not self._timer:
            self._timer = asyncio.get_running_loop().call_later(LOOK_S, self._look)

    def _take(self, place: Place) -> None:
        self._places[place.request.caller] += 1
        if place.request.batch:
            self._batches.setdefault(place.request.batch, []).append(place)

    def _note_begun(self, batch: str) -> None:
        if batch:
            self._begun.add(batch)

    def _displace(self, key: str, error: Exception) -> None:
        """End the last of a key's waiting requests and its batch; one that has begun only if there is no other."""
        waiting = self._waiting[key]
        last = next((one for one in reversed(waiting) if one.request.batch not in self._begun), waiting[-1])
        batch = self._batches.get(last.request.batch, [last])
        for place in sorted(batch, key=lambda one: one not in waiting):  # or one that waits would begin at once
            place.end_with(error)

    def _look(self) -> None:
        self._timer = None
        self._hand_on()

    def _has_room(self) -> bool:
        stats = self._engine.stats()
        return not stats.alive or stats.running + stats.waiting < self._max_batch + self._ahead

    def _queued(self) -> int:
        return sum(map(len, tuple(self._waiting.values())))

    def _unqueue(self, place: Place) -> None:
        queue = self._waiting.get(place.request.caller, ())
        if place in queue:
            self._waiting[place.request.caller].remove(place)
            if not queue:
                del self._waiting[place.request.caller]


class Place(Stream):
    """The stream of a request that may have to wait for its turn; from then on it is the engine's."""

    def __init__(self, turns: Turns, request: EngineRequest) -> None:  # all goes through the engine's queue
        self.request, self._turns = request, turns
        self._stream: Stream | None = None
        self._turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._left = False
        self._cause: Exception | None = None  # why it was ended

    @property
    def begun_at(self) -> int:
        """See `Stream`."""
        return self._stream.begun_at if self._stream else 0

    def begin_with(self, stream: Stream) -> None:
        """It is this request's turn: the stream is the engine's."""
        self._stream = stream
        if not self._turn.done():
            self._turn.set_result(None)

    def push(self, item: Chunk | Exception) -> None:
        """See `Stream`; without a turn it can only be the error that ends it, and it waits no more."""
        if self._stream:
            self._stream.push(item)
        elif isinstance(item, Exception) and not self._turn.done():
            self._turn.set_exception(item)
            self._turn.exception()  # it may be that nobody reads it
            self.cancel()

    def end_with(self, error: Exception) -> None:
        """Tell the reader that there is no more, and the engine that nobody listens."""
        self._cause = error
        self.push(error)
        self.cancel()

    def cancel(self) -> None:
        """See `Stream`."""
        if not self._left:
            self._left = True
            if self._stream:
                self._stream.cancel()
            self._turns.leave(self)

    async def __aiter__(self) -> AsyncIterator[Chunk]:
        try:
            await self._turn
            if self._stream:
                async for chunk in self._stream:
                    yield chunk
            if self._cause:
                raise self._cause
        finally:
            self.cancel()
