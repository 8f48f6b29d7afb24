"""A canary's trial in this process: who is answered by it, how it went, and when it is to be pulled."""

from __future__ import annotations

import hashlib
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from llmops.errors import LlmopsError
from llmops.registry.aliases import Canary
from llmops.registry.version import Version
from llmops.release.comparison import Figures, Verdict, bound, compare, looks
from serving.engines.base import Chunk, Stream
from serving.errors import STATUS
from serving.guard import Watch


def drawn(caller: str, canary: Canary) -> bool:
    """Whether the canary answers this caller: always the same for a version, and a larger share keeps who was drawn."""
    digest = hashlib.sha256(f"{caller}:{canary.version}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < canary.share * 2**64


class Trial:
    """Counts what both sides do, and looks whether the canary is worse.

    Args:
        canary: the trial in the registry.
        before: what the champion did before.
    """

    def __init__(self, canary: Canary, before: Figures) -> None:
        self.of, self._before = canary, before
        self.canary, self.champion = Figures(), Figures()
        self.why = ""  #: what is wrong with the canary, once that is known; nobody is answered by it any more
        self._verdict: Verdict | None = None
        self._look = 0

    def look(self) -> bool:
        """Look, if it is time to; True if the canary has just been found worse."""
        look = looks(self.canary.requests)
        if self.why or look <= self._look:
            return False
        self._look = look
        verdict = compare(self.canary, self.champion, bound(look), self._before)
        if verdict.worse:
            self._verdict, self.why = verdict, verdict.text()
        return bool(verdict.worse)

    def numbers(self) -> dict[str, Any]:
        """The look that found it worse; without one, what was counted."""
        if self._verdict:
            return self._verdict.numbers()
        return {"canary": self.canary.summary(), "champion": self.champion.summary()}


class Answering(Stream):
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
        watch: Watch,
        spare: Callable[[], Answering] | None = None,
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
        return self._stream.broken if isinstance(self._stream, Answering) else self._watch.rules

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
