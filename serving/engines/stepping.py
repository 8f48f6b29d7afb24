"""A queue and a thread that takes steps: the half of an engine that knows no model.

Requests join the running batch as soon as it has room and leave it as soon as they are done or their reader has left,
between any two steps: continuous batching (Orca, OSDI 2022). Nobody waits for a batch to fill or for the longest of it.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from dataclasses import dataclass, field
from functools import partial
from typing import Generic, TypeVar

from llmops.errors import LlmopsError
from serving.engines.base import EngineRequest, Stats, Stream
from serving.errors import EngineDied, QueueFull

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Job:
    """A request, from when it is accepted until its answer is complete."""

    request: EngineRequest
    stream: Stream = field(init=False)
    cancelled: bool = False  #: nobody listens any more
    begun: float = 0.0  #: when it joined the batch, in seconds of the monotonic clock


@dataclass(slots=True, eq=False)
class Row:
    """A request in the running batch. An engine adds what it needs."""

    job: Job
    done: bool = field(default=False, init=False)  #: its last chunk was pushed, so it leaves before the next step


R = TypeVar("R", bound=Row)


class SteppingEngine(ABC, Generic[R]):
    """An engine that answers in one background thread.

    `_load`, `_begin`, `_step`, `_leave` and `_unload`, which an engine fills in, run in that thread. An exception in
    `_step` ends the engine, since nobody knows what state it leaves the model in.

    Args:
        max_queue: requests that may wait while the batch is full.
        max_batch: most requests that are answered together.
    """

    def __init__(self, max_queue: int, max_batch: int) -> None:
        self._max_queue, self._max_batch = max_queue, max_batch
        self._waiting: deque[Job] = deque()
        self._rows: list[R] = []
        self._changed = threading.Condition()
        self._loaded = threading.Event()
        self._closed = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._answer_s = 1.0  # how long a request takes, as the last ones did

    @abstractmethod
    def _load(self) -> None:
        """Load the model and warm it up."""

    @abstractmethod
    def _begin(self, job: Job) -> R:
        """Make the row of a request that joins; what it raises is the answer to that request alone."""

    @abstractmethod
    def _step(self, rows: list[R]) -> None:
        """Take all rows a step further, push what is new to their streams, and mark those that are done."""

    def _leave(self, row: R) -> None:
        """Free what a row holds."""

    def _unload(self) -> None:
        """Let go of the model."""

    def load(self) -> None:
        """See `Engine`; raises what loading raises."""
        self._thread.start()
        self._loaded.wait()
        if self._error:
            raise self._error

    def generate(self, request: EngineRequest) -> Stream:
        """See `Engine`."""
        job = Job(request)
        job.stream = Stream(partial(self._cancel, job))
        with self._changed:
            if self._error or self._closed:
                job.stream.push(EngineDied())
                return job.stream
            waiting = len(self._waiting) + len(self._rows) - self._max_batch  # though some may be about to join
            if waiting >= self._max_queue:
                raise QueueFull(waiting, max(1, math.ceil(self._answer_s * waiting / self._max_batch)))
            self._waiting.append(job)
            self._changed.notify()
        return job.stream

    def stats(self) -> Stats:
        """See `Engine`."""
        with self._changed:
            alive = self._loaded.is_set() and self._thread.is_alive() and self._error is None
            return Stats(alive, len(self._waiting), len(self._rows))

    def close(self) -> None:
        """See `Engine`."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join()

    def _cancel(self, job: Job) -> None:
        with self._changed:
            job.cancelled = True
            if job in self._waiting:
                self._waiting.remove(job)

    def _run(self) -> None:
        try:
            self._load()
            self._loaded.set()
            while self._join():
                if self._rows:
                    self._step(self._rows)
                    self._sweep()
        except BaseException as error:
            self._die(error)
        finally:
            self._loaded.set()
            self._unload()

    def _join(self) -> bool:
        """Let waiting requests into the batch while it has room; with nothing to do, wait for one.

        Returns:
            False when the engine is closed and has answered all that it accepted.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._rows or self._closed or self._error)
            if self._error:
                raise self._error
            joining = [self._waiting.popleft() for _ in range(min(len(self._waiting), self._room()))]
        for job in joining:
            job.begun = time.monotonic()
            job.stream.begin()
            try:
                row = self._begin(job)
            except Exception as error:
                if not isinstance(error, LlmopsError):
                    log.exception("A request could not join")
                job.stream.push(error)
            else:
                with self._changed:
                    self._rows.append(row)
        return bool(joining or self._rows or not self._closed)

    def _room(self) -> int:
        return self._max_batch - len(self._rows)

    def _sweep(self) -> None:
        """Take the rows out of the batch that are done or whose reader has left."""
        leaving = [row for row in self._rows if row.done or row.job.cancelled]
        for row in leaving:
            self._leave(row)
            if row.done:
                self._answer_s += (time.monotonic() - row.job.begun - self._answer_s) / 8
        if leaving:
            with self._changed:
                self._rows = [row for row in self._rows if row not in leaving]

    def _die(self, error: BaseException) -> None:
        with self._changed:
            self._error = error
            jobs = [*(row.job for row in self._rows), *self._waiting]
            self._rows.clear()
            self._waiting.clear()
        if self._loaded.is_set():
            log.error("The engine died with %d requests", len(jobs), exc_info=error)
        for job in jobs:
            job.stream.push(EngineDied())
