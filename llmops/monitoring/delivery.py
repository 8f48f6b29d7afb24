"""Bringing what waits to one sink, piece by piece, so that one event that no sink can take holds up no other.

A batch that is refused as a whole is sent in halves until those at fault are alone. While a sink fails, batches get
smaller from try to try, down to one event; if then that one still fails while the one behind it is taken, it is at
fault, however the sink says so (500, a hang), and becomes a dead letter. A sink that is down takes neither, and waits.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from llmops.monitoring.sinks.base import BatchRefusedError, Rejection, Sink, SinkError
from llmops.monitoring.spool import BATCH, Spool

log = logging.getLogger(__name__)

PROOFS = 3  #: how often a sink must fail over an event, after it took the next one, for the event to be at fault

Events = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Shipment:
    """What one delivery did for one sink."""

    sent: int = 0  #: events that the sink confirmed, those that it refused for good included
    rejected: int = 0  #: of these, refused for good and kept in `rejected`
    error: str = ""  #: why it stopped before the end; the rest waits in the spool


class Delivery:
    """The way to one sink. Remembers between tries how many events to send together."""

    def __init__(self, sink: Sink) -> None:
        self.sink = sink
        self._size = BATCH

    def ship(self, spool: Spool) -> Shipment:
        """Bring everything that waits, until the sink fails."""
        name, sent, rejected = self.sink.name, 0, 0
        while True:
            numbers, events = spool.read(name, self._size)
            if not events:
                return Shipment(sent, rejected)
            done = 0

            def confirm(count: int, refused: Sequence[Rejection], numbers: Sequence[int] = numbers) -> None:
                nonlocal done, rejected
                done, rejected = done + count, rejected + len(refused)
                spool.ack(name, numbers[done - 1], refused)

            try:
                send_in_parts(self.sink, events, confirm)
            except SinkError as error:
                sent += done
                if culprit := self._culprit(spool):
                    spool.ack(name, culprit[0], [culprit[1]])
                    _log(self.sink, culprit[1])
                    sent, rejected = sent + 1, rejected + 1
                    continue
                self._size = max(1, self._size // 2)
                return Shipment(sent, rejected, str(error))
            sent += done
            self._size = min(BATCH, self._size * 2)

    def _culprit(self, spool: Spool) -> tuple[int, Rejection] | None:
        """The oldest event that waits, if the sink fails over it alone: it takes the next, and still not this one."""
        if self._size > 1:
            return None
        numbers, events = spool.read(self.sink.name, 2)
        if len(events) < 2:
            return None
        first, second = events
        try:
            self.sink.send([second])
        except SinkError:
            return None
        except BatchRefusedError:
            pass  # an answer, so the sink is there
        for _ in range(PROOFS):
            try:
                self.sink.send([first])
            except SinkError as error:
                reason = f"The sink fails over it: {error}"
            except BatchRefusedError:
                return None  # its turn comes now
            else:
                return None
        return numbers[0], Rejection(str(first["event.id"]), reason, first)


def send_in_parts(sink: Sink, events: Events, confirm: Callable[[int, Sequence[Rejection]], None]) -> None:
    """Send events in order, a batch that is refused in halves.

    Args:
        sink: where to.
        events: at least one.
        confirm: is told of each part that is done, in order: of how many events, and which of them are refused.

    Raises:
        SinkError: if the sink fails; what was done before was confirmed.
    """
    parts = [events]
    while parts:
        part = parts.pop()
        try:
            refused = sink.send(part)
        except BatchRefusedError as error:
            if len(part) > 1:
                half = len(part) // 2
                parts += [part[half:], part[:half]]
                continue
            refused = [Rejection(str(part[0]["event.id"]), str(error), part[0])]
        confirm(len(part), refused)
        for rejection in refused:
            _log(sink, rejection)


def _log(sink: Sink, rejection: Rejection) -> None:
    log.error("Sink %s refuses event %s: %s", sink.name, rejection.id, rejection.reason)
