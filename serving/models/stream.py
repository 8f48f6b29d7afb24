"""An engine's stream, guarded and counted; where a canary's fails or refuses at once, the champion's takes over."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable

from llmops.errors import LlmopsError
from llmops.registry.version import Version
from serving.engines.base import Chunk, Prompt, Stream
from serving.errors import STATUS, ClientLeft, PromptRefused
from serving.guard import AnswerWatch

#: called once, when an answer has ended: with the seconds that it took, and its last chunk or what ended it
CountEnd = Callable[[float, Chunk | Exception], None]


class GuardedStream(Stream):
    """Passes on the chunks of an engine's stream as far as the guard lets them through, and says how it went.

    If the engine fails before its first chunk, the `spare` gives the request to another engine, whose stream takes its
    place. So it does if the engine refuses the prompt: if the other one answers it, the refusal was no mistake of the
    caller and counts as a failure.
    """

    def __init__(
        self,
        version: Version,
        stream: Stream,
        count: CountEnd,
        watch: AnswerWatch,
        spare: Callable[[], GuardedStream] | None = None,
        mark: str = "",
        side: str = "champion",
    ) -> None:  # it has no queue of its own: all goes through the engine's
        self._version, self._stream, self._count, self._watch, self._spare = version, stream, count, watch, spare
        self.mark = mark  #: the side of a trial that the answer is of, see `trials.mark`; empty: of none
        self.side = side  #: what has answered: the `champion`, the `canary` of a trial, or a version that is `tested`
        self._begun, self._left = time.monotonic(), False
        self._cause: Exception | None = None  # why it is given up
        self._counted = self._read = False

    @property
    def version(self) -> Version:
        """Return the version that answers. It does not change after the first chunk."""
        return self._version

    @property
    def prompt(self) -> Prompt:
        """Return the prompt that is answered."""
        return self._watch.prompt

    @property
    def begun_at(self) -> int:
        """See `Stream`."""
        return self._stream.begun_at

    @property
    def broken(self) -> list[str]:
        """Return the guard's rules that the answer broke."""
        return self._stream.broken if isinstance(self._stream, GuardedStream) else self._watch.rules

    def push(self, item: Chunk | Exception) -> None:
        """See `Stream`; an error is why it is given up."""
        self._cause = item if isinstance(item, Exception) else None
        self._stream.push(item)

    def cancel(self) -> None:
        """See `Stream`."""
        self._left = True
        if self._read or self._cause:
            self._end(self._cause or ClientLeft())
        self._stream.cancel()

    async def __aiter__(self) -> AsyncIterator[Chunk]:
        self._read = True
        try:
            try:
                async for raw in self._stream:
                    self._spare = None
                    chunk = self._watch.see(raw)
                    if chunk.finish_reason:
                        self._end(chunk)
                    yield chunk
                    if chunk.finish_reason:
                        return
            except Exception as error:
                self._end(error)
                refused, seconds = isinstance(error, PromptRefused), time.monotonic() - self._begun
                if not (refused or at_fault(error)) or self._spare is None or self._left:
                    raise
                alone = RuntimeError(f"Only {self._version.name} refuses this prompt: {error}")
                other = self._spare()
                self._version, self._stream, self.mark, self.side = other.version, other, other.mark, other.side
                async for chunk in other:
                    if refused:
                        refused = False
                        self._count(seconds, alone)
                    yield chunk
        finally:
            self._stream.cancel()

    def _end(self, end: Chunk | Exception) -> None:
        if not self._counted:
            self._counted = True
            self._count(time.monotonic() - self._begun, end)


def at_fault(error: Exception) -> bool:
    """Return whether an error is the server's fault and not the caller's: its HTTP status is 500 or more."""
    if not isinstance(error, LlmopsError):
        return True
    return next(status for kind, (status, _) in STATUS.items() if isinstance(error, kind)) >= 500
