"""The interface of a sink: a destination of events.

`send` returns after all events are stored for good. It may get an event twice, and should deduplicate by `event.id`.
To add a sink, implement `Sink` and name it in `factory.make_sinks` and in `Monitoring.sinks`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from llmops.frame.errors import LlmopsError, TransientError


class SinkError(TransientError):
    """A sink cannot take events now. They wait in the spool."""


class BatchRefusedError(LlmopsError):
    """A sink refuses a whole batch: it is too large, or the sink does not say which event is faulty."""


@dataclass(frozen=True, slots=True)
class Rejection:
    """An event that a sink refuses for good."""

    id: str
    reason: str
    document: dict[str, Any]


class Sink(Protocol):
    """A destination of events."""

    name: str

    def send(self, events: Sequence[dict[str, Any]]) -> list[Rejection]:
        """Store events for good. Return those that are refused for good.

        Raises:
            SinkError: if not all could be stored now. All are sent again later.
            BatchRefusedError: if the batch should be sent in parts.
        """

    def close(self) -> None:
        """Close connections."""
