"""The stream of an engine on its way through the guard: how it went is counted, and another engine may take over."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable

from llmops.errors import LlmopsError
from llmops.registry.version import Version
from serving.engines.base import Chunk, Stream
from serving.errors import STATUS
from serving.guard import AnswerWatch


class GuardedStream(Stream):
    """The stream of an engine, which tells how it went, and may go on with another one that was not begun.

    Args:
        version: whose engine it is.
        stream: that engine's.
        count: told once, at the end, of seconds and last chunk, or that it was the engine's fault.
        watch: lets through what may leave.
        spare: gives version, stream and `count` of another engine, for when this one fails before its first chunk.
    """

    def __init__(
        self,
        version: Version,
        stream: Stream,
        count: Callable[[float, Chunk | None], None],
        watch: AnswerWatch,
        spare: Callable[[], GuardedStream] | None = None,
    ) -> None:  # it has no queue of its own: all goes through the engine's
        self._version, self._stream, self._count, self._watch, self._spare = version, stream, count, watch, spare
        self._begun, self._left = time.monotonic(), False

    @property
    def version(self) -> Version:
        """The version that answers; it is final once the first chunk is there."""
        return self._version

    @property
    def broken(self) -> list[str]:
        """The guard's rules that the answer broke."""
        return self._stream.broken if isinstance(self._stream, GuardedStream) else self._watch.rules

    def push(self, item: Chunk | Exception) -> None:
        """See `Stream`."""
        self._stream.push(item)

    def cancel(self) -> None:
        """See `Stream`."""
        self._left = True
        self._stream.cancel()

    async def __aiter__(self) -> AsyncIterator[Chunk]:
        try:
            try:
                async for raw in self._stream:
                    self._spare = None
                    chunk = self._watch.see(raw)
                    if chunk.finish_reason:
                        self._count(time.monotonic() - self._begun, chunk)
                    yield chunk
                    if chunk.finish_reason:
                        return
            except Exception as error:
                if not at_fault(error):
                    raise
                self._count(time.monotonic() - self._begun, None)
                if self._spare is None or self._left:
                    raise
                other = self._spare()
                self._version, self._stream = other.version, other
                async for chunk in other:
                    yield chunk
        finally:
            self._stream.cancel()


def at_fault(error: Exception) -> bool:
    """Whether an error is ours and not the caller's, by its HTTP status."""
    if not isinstance(error, LlmopsError):
        return True
    return next(status for kind, (status, _) in STATUS.items() if isinstance(error, kind)) >= 500
