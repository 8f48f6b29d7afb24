"""What a sink is: where events end up.

A sink's `send` returns once all events are stored for good, and may be given an event again: where it can, it
deduplicates by `event.id`. Adding a sink: write the three members of `Sink`, and name it in `configured` and in
`Monitoring.sinks`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from llmops.errors import LlmopsError, TransientError


class SinkError(TransientError):
    """A sink cannot take events now; they wait in the spool."""


class SinkMisconfiguredError(SinkError):
    """A sink takes nothing until somebody mends its address, a key, rights or a template: no event is at fault."""


class BatchRefusedError(LlmopsError):
    """A sink refuses a batch as a whole: it is too large, or an event is at fault and the sink says not which."""


@dataclass(frozen=True, slots=True)
class Rejection:
    """An event that a sink refuses for good."""

    id: str
    reason: str
    document: dict[str, Any]


class Sink(Protocol):
    """Where events go."""

    name: str

    def send(self, events: Sequence[dict[str, Any]]) -> list[Rejection]:
        """Store events for good, those refused for good excepted, which are returned.

        Raises:
            SinkError: if not all could be stored now; all are sent again later.
            SinkMisconfiguredError: if not before somebody has mended something.
            BatchRefusedError: if the batch should be sent in parts.
        """

    def close(self) -> None:
        """Let go of connections."""
