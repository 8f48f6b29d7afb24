"""The queue and the thread of an engine, without the model.

Requests join the running batch between two steps as soon as it has room. They leave it as soon as they are done or
their reader has left. This is continuous batching (Orca, OSDI 2022): no request waits for a batch to fill, or for the
longest request in its batch.

The callers take turns: the next request is one of the caller with the fewest requests in the batch. A caller may have
as many requests in the queue as it leaves free for others. This is the dynamic threshold of Choudhury and Hahne
(IEEE/ACM Transactions on Networking, 1998): one caller alone gets half of the queue, two get a third each, and there is
room for another.
"""

from __future__ import annotations

import gc
import logging
import math
import threading
import time
import traceback
from abc import ABC, abstractmethod
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from typing import Generic, TypeVar

from llmops.frame.errors import LlmopsError
from serving.engines.base import EngineRequest, EngineStats, Stream
from serving.engines.turns import TurnQueue
from serving.errors import EngineDied, QueueFull, QueueShareFull, SchemaRefused

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Job:
    """An accepted request, until its answer is complete."""

    request: EngineRequest
    stream: Stream = field(init=False)
    cancelled: bool = False  #: True if the reader has left
    joined_at: float = 0.0  #: when it joined the batch, by `time.monotonic`


@dataclass(slots=True, eq=False)
class Row:
    """A request in the running batch. Engines add fields in subclasses."""

    job: Job
    done: bool = field(default=False, init=False)  #: True if its last chunk was pushed; it leaves before the next step


R = TypeVar("R", bound=Row)


class SteppingEngine(ABC, Generic[R]):
    """An engine that answers in one background thread.

    Subclasses define `_load`, `_begin`, `_step`, `_release` and `_unload`, which run in that thread. An exception in
    `_step` ends the engine, because the model's state is unknown afterwards.

    Args:
        max_queue: requests that may wait while the batch is full.
        max_batch: most requests that are answered together.
    """

    follows_schemas = False  #: True if answers can follow a JSON schema

    def __init__(self, max_queue: int, max_batch: int) -> None:
        self._max_queue, self._max_batch = max_queue, max_batch
        self._waiting = TurnQueue[Job]()
        self._rows: list[R] = []
        self._changed = threading.Condition()
        self._loaded = threading.Event()
        self._closed = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._answer_s = 1.0  # moving average of the seconds that a request takes

    @abstractmethod
    def _load(self) -> None:
        """Load the model and warm it up."""

    @abstractmethod
    def _begin(self, job: Job) -> R:
        """Start a request, and return its row. An exception ends this request alone."""

    @abstractmethod
    def _step(self, rows: list[R]) -> None:
        """Compute the next tokens of all rows, push them to the streams, and set `done` in rows that have ended."""

    def _release(self, row: R) -> None:
        """Free the resources of a row."""

    def _unload(self) -> None:
        """Free the model."""

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
        if request.schema and not self.follows_schemas:
            job.stream.push(
                SchemaRefused("this model's engine follows no JSON schema; the engines `openvino` and `vllm` do")
            )
            return job.stream
        with self._changed:
            if self._error or self._closed:
                job.stream.push(EngineDied())
                return job.stream
            self._refuse_without_room(request.key)
            self._waiting.add(request.key, job)
            self._changed.notify()
        return job.stream

    def get_stats(self) -> EngineStats:
        """See `Engine`."""
        with self._changed:
            alive = self._loaded.is_set() and self._thread.is_alive() and self._error is None
            return EngineStats(alive, len(self._waiting), len(self._rows))

    def close(self) -> None:
        """See `Engine`."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join()

    def _refuse_without_room(self, caller: str) -> None:
        waiting = len(self._waiting) + len(self._rows) - self._max_batch  # some may be about to join
        own, free = min(self._waiting.count(caller), waiting), self._max_queue - waiting
        retry_after_s = max(1, math.ceil(self._answer_s * waiting / self._max_batch))
        if free <= 0:
            raise QueueFull(waiting, retry_after_s)
        if own >= free:
            raise QueueShareFull(own, retry_after_s)

    def _cancel(self, job: Job) -> None:
        with self._changed:
            job.cancelled = True
            self._waiting.remove(job.request.key, job)

    def _run(self) -> None:
        try:
            self._load()
            self._loaded.set()
            while self._admit():
                if self._rows:
                    self._step(self._rows)
                    self._remove_ended()
        except BaseException as error:
            self._die(error)
        finally:
            try:
                self._unload()
            finally:
                clear_frames(self._error)
                gc.collect()
                self._loaded.set()

    def _admit(self) -> bool:
        """Move waiting requests into the batch while it has room. If there is nothing to do, wait for a request.

        Returns:
            False if the engine is closed and has answered all accepted requests.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._rows or len(self._waiting) or self._closed or self._error)
            if self._error:
                raise self._error
            joining: list[Job] = []
            if room := min(len(self._waiting), self._max_batch - len(self._rows)):  # not so between most steps
                running = Counter(row.job.request.key for row in self._rows)
                for _ in range(room):
                    joining.append(self._waiting.take(running))
                    running[joining[-1].request.key] += 1
        for job in joining:
            job.joined_at = time.monotonic()
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

    def _remove_ended(self) -> None:
        leaving = [row for row in self._rows if row.done or row.job.cancelled]
        for row in leaving:
            self._release(row)
            if row.done:
                self._answer_s += (time.monotonic() - row.job.joined_at - self._answer_s) / 8
        if leaving:
            with self._changed:
                self._rows = [row for row in self._rows if row not in leaving]

    def _die(self, error: BaseException) -> None:
        with self._changed:
            self._error = error
            jobs = [*(row.job for row in self._rows), *self._waiting.clear()]
            self._rows.clear()
        if self._loaded.is_set():
            log.error("The engine died with %d requests", len(jobs), exc_info=error)
        for job in jobs:
            job.stream.push(EngineDied())


def clear_frames(error: BaseException | None) -> None:
    """Clear the local variables in the traceback of an error and of its causes. They would keep the model in memory."""
    if error:
        traceback.clear_frames(error.__traceback__)
        clear_frames(error.__cause__ or error.__context__)
