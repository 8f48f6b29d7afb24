"""A queue and a thread that answers what waits in batches: the half of an engine that knows no model.

A batch is whatever waits when the last one is done, at most `max_batch` requests. Nobody waits for a batch to fill:
one lone request is answered at once, and under load batches fill by themselves.
"""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import Future

from serving.engines.base import Answer, Ask, Stats
from serving.errors import QueueFull

log = logging.getLogger(__name__)

_Item = tuple[Ask, "Future[Answer]"]


class BatchingEngine(ABC):
    """An engine that answers in batches in one background thread, where `_load` and `_answer` run too."""

    def __init__(self, max_queue: int, max_batch: int) -> None:
        self._max_queue, self._max_batch = max_queue, max_batch
        self._queue: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._loaded: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._batch_s = 1.0  # how long the last batch took

    @abstractmethod
    def _load(self) -> None:
        """Load the model and warm it up."""

    @abstractmethod
    def _answer(self, asks: Sequence[Ask]) -> list[Answer | Exception]:
        """Answer a batch: one answer, or one error, for each request."""

    def _unload(self) -> None:  # noqa: B027  an engine may have nothing to let go of
        """Let go of the model."""

    def load(self) -> None:
        """See `Engine`; raises what loading raises."""
        self._thread.start()
        self._loaded.result()

    def generate(self, ask: Ask) -> Future[Answer]:
        """See `Engine`."""
        waiting = self._queue.qsize()
        if waiting >= self._max_queue:
            raise QueueFull(waiting, max(1, math.ceil(self._batch_s * waiting / self._max_batch)))
        future: Future[Answer] = Future()
        self._queue.put((ask, future))
        return future

    def stats(self) -> Stats:
        """See `Engine`."""
        return Stats(self._thread.is_alive(), self._queue.qsize())

    def close(self) -> None:
        """See `Engine`."""
        self._queue.put(None)
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        try:
            self._load()
        except BaseException as error:
            self._loaded.set_exception(error)
            return
        self._loaded.set_result(None)
        while batch := self._next():
            begun = time.monotonic()
            self._do(batch)
            self._batch_s = time.monotonic() - begun
        self._unload()

    def _next(self) -> list[_Item]:
        """Wait for a request and take what waits with it; nothing once the engine is closed."""
        items = [self._queue.get()]
        while items[-1] is not None and len(items) < self._max_batch:
            try:
                items.append(self._queue.get_nowait())
            except queue.Empty:
                break
        batch = [item for item in items if item is not None]
        if batch and items[-1] is None:
            self._queue.put(None)
        return batch

    def _do(self, batch: list[_Item]) -> None:
        wanted = [(ask, future) for ask, future in batch if future.set_running_or_notify_cancel()]
        try:
            answers = self._answer([ask for ask, _ in wanted]) if wanted else []
        except Exception as error:  # one bad batch must not end the thread that all later ones need
            log.exception("A batch of %d requests failed", len(wanted))
            answers = [error] * len(wanted)
        for (_, future), answer in zip(wanted, answers, strict=True):
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)
