"""An engine's stream, guarded and counted; where a canary's engine fails at once, the champion's takes its place."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable

from llmops.errors import LlmopsError
from llmops.registry.version import Version
from serving.engines.base import Chunk, Stream
from serving.errors import STATUS
from serving.guard import AnswerWatch


class GuardedStream(Stream):
    """Passes on the chunks of an engine's stream as far as the guard lets them through, and says how it went.

    If the engine fails before its first chunk, the stream of another engine takes its place.

    Args:
        version: the version that answers.
        stream: of its engine.
        count: called once, when the answer has ended or the engine failed: with the seconds that it took and the last
            chunk; None instead of the chunk: it failed. Not called for errors of the caller's.
        watch: the guard's, over this answer.
        spare: gives the same request to another engine; None: nobody stands in.
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
        """The version that answers; it does not change any more once the first chunk is there."""
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
    """Whether an error is the server's fault and not the caller's: its HTTP status is 500 or more."""
    if not isinstance(error, LlmopsError):
        return True
    return next(status for kind, (status, _) in STATUS.items() if isinstance(error, kind)) >= 500
