"""An engine's stream, guarded and counted. If a canary fails or refuses at once, the champion's stream takes over.

It takes over all answers of a request (`unite_streams`), so that they come from one version.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence

from llmops.frame.errors import LlmopsError
from llmops.release.registry.version import Version
from serving.engines.base import Chunk, Prompt, Stream
from serving.errors import STATUS, ClientLeft, PromptRefused
from serving.guard import AnswerFilter

#: called once, when an answer has ended: with the seconds that it took, and its last chunk or its error
CountEnd = Callable[[float, Chunk | Exception], None]


class GuardedStream(Stream):
    """The chunks of an engine's stream that the guard passes. It reports how the answer ended.

    If the engine fails before its first chunk, or refuses the prompt, `fallback` returns the stream of another engine,
    which takes its place. If the other engine answers a refused prompt, the refusal counts as a failure, because the
    caller made no mistake.
    """

    def __init__(
        self,
        version: Version,
        stream: Stream,
        count: CountEnd,
        filter: AnswerFilter,
        fallback: Callable[[], GuardedStream] | None = None,
        mark: str = "",
        side: str = "champion",
    ) -> None:  # without `super().__init__`: the engine's stream has the queue
        self._version, self._stream, self._count, self._filter, self._fallback = (
            version,
            stream,
            count,
            filter,
            fallback,
        )
        self.mark = mark  #: side and caller in a trial, see `trials.make_mark`; empty: the answer counts in no trial
        self.side = side  #: the side that answers: `champion`, `canary` or `tested`
        self._started_at, self._cancelled = time.monotonic(), False
        self._cause: Exception | None = None  # the error for which the answer is given up
        self._counted = self._read = False

    @property
    def version(self) -> Version:
        """Return the version that answers. It does not change after the first chunk."""
        return self._version

    @property
    def prompt(self) -> Prompt:
        """Return the prompt that is answered."""
        return self._filter.prompt

    @property
    def begun_at(self) -> int:
        """See `Stream`."""
        return self._stream.begun_at

    @property
    def broken_rules(self) -> list[str]:
        """Return the guard's rules that the answer broke."""
        return self._stream.broken_rules if isinstance(self._stream, GuardedStream) else self._filter.rules

    async def peek(self) -> Chunk | Exception:
        """See `Stream`. The chunk is unguarded."""
        return await self._stream.peek()

    async def needs_fallback(self) -> bool:
        """Wait until the answer begins. Return True if another engine has to give it."""
        if self._fallback is None:
            return False
        item = await self.peek()
        return isinstance(item, Exception) and _is_reason_to_fall_back(item)

    def hand_over(self) -> GuardedStream:
        """Return the stream of the other engine, if there is one, and give this answer up without counting it."""
        if self._fallback is None:
            return self
        other = self._fallback()
        self.cancel()
        return other

    def push(self, item: Chunk | Exception) -> None:
        """See `Stream`. An error is the reason why the answer is given up."""
        self._cause = item if isinstance(item, Exception) else None
        self._stream.push(item)

    def cancel(self) -> None:
        """See `Stream`."""
        self._cancelled = True
        if self._read or self._cause:
            self._count_end(self._cause or ClientLeft())
        self._stream.cancel()

    async def __aiter__(self) -> AsyncIterator[Chunk]:
        self._read = True
        try:
            try:
                async for unfiltered in self._stream:
                    self._fallback = None
                    chunk = self._filter.feed(unfiltered)
                    if chunk.finish_reason:
                        self._count_end(chunk)
                    yield chunk
                    if chunk.finish_reason:
                        return
            except Exception as error:
                self._count_end(error)
                refused, seconds = isinstance(error, PromptRefused), time.monotonic() - self._started_at
                if not _is_reason_to_fall_back(error) or self._fallback is None or self._cancelled:
                    raise
                wrong_refusal = RuntimeError(f"Only {self._version.name} refuses this prompt: {error}")
                other = self._fallback()
                self._version, self._stream, self.mark, self.side = other.version, other, other.mark, other.side
                async for chunk in other:
                    if refused:
                        refused = False
                        self._count(seconds, wrong_refusal)
                    yield chunk
        finally:
            self._stream.cancel()

    def _count_end(self, end: Chunk | Exception) -> None:
        if not self._counted:
            self._counted = True
            self._count(time.monotonic() - self._started_at, end)


async def unite_streams(streams: Sequence[GuardedStream]) -> list[GuardedStream]:
    """Return the streams of one request's answers, all of one version.

    Wait until each answer of a canary has begun. If one of them needs the champion, the champion gives them all.
    """
    needs = [await stream.needs_fallback() for stream in streams]
    if not any(needs) and len({stream.version.name for stream in streams}) == 1:
        return list(streams)
    united: list[GuardedStream] = []
    try:
        for stream, needed in zip(streams, needs, strict=True):
            united.append(stream if needed else stream.hand_over())  # it falls back by itself, and counts the failure
    except BaseException:
        for stream in united:
            stream.cancel()
        raise
    return united


def _is_reason_to_fall_back(error: Exception) -> bool:
    return isinstance(error, PromptRefused) or is_server_fault(error)


def is_server_fault(error: Exception) -> bool:
    """Return True if an error is the server's fault and not the caller's: its HTTP status is 500 or more."""
    if not isinstance(error, LlmopsError):
        return True
    return next(status for kind, (status, _) in STATUS.items() if isinstance(error, kind)) >= 500
