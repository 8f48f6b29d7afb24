"""The delivery of waiting events to one sink. An event that no sink accepts does not block the events behind it.

If a sink refuses a batch, the batch is halved until the faulty events are alone. While a sink fails, each try sends
a smaller batch, down to one event. If the sink then accepts the second event but still fails on the first, the first
event is faulty and becomes a dead letter. A sink that is down accepts neither, so both events wait.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from llmops.events.sinks.sink import BatchRefusedError, Rejection, Sink, SinkError
from llmops.events.spool import BATCH_SIZE, Spool

log = logging.getLogger(__name__)

FAILURES_OF_FAULTY = 3  #: failures over one event, after the sink accepted the next one, until it counts as faulty

Events = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Shipment:
    """The result of one delivery to one sink."""

    sent: int = 0  #: events that the sink confirmed, including the refused ones
    rejected: int = 0  #: events that the sink refused for good; they are kept in `rejected`
    error: str = ""  #: why the delivery stopped early; the other events wait in the spool


class Delivery:
    """The delivery to one sink. It remembers the batch size between tries."""

    def __init__(self, sink: Sink) -> None:
        self.sink = sink
        self._size = BATCH_SIZE

    def ship(self, spool: Spool) -> Shipment:
        """Send all waiting events until the sink fails."""
        name, sent, rejected = self.sink.name, 0, 0
        while True:
            numbers, events = spool.read(name, self._size)
            if not events:
                return Shipment(sent, rejected)
            confirmed = 0

            def confirm(count: int, refused: Sequence[Rejection], numbers: Sequence[int] = numbers) -> None:
                nonlocal confirmed, rejected
                confirmed, rejected = confirmed + count, rejected + len(refused)
                spool.ack(name, numbers[confirmed - 1], refused)

            try:
                send_in_parts(self.sink, events, confirm)
            except SinkError as error:
                sent += confirmed
                if faulty := self._find_faulty(spool):
                    spool.ack(name, faulty[0], [faulty[1]])
                    _log_rejection(self.sink, faulty[1])
                    sent, rejected = sent + 1, rejected + 1
                    continue
                self._size = max(1, self._size // 2)
                return Shipment(sent, rejected, str(error))
            sent += confirmed
            self._size = min(BATCH_SIZE, self._size * 2)

    def _find_faulty(self, spool: Spool) -> tuple[int, Rejection] | None:
        """Return the oldest waiting event if the sink accepts the event behind it, but not this one."""
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
            pass  # the sink answered, so it is up
        for _ in range(FAILURES_OF_FAULTY):
            try:
                self.sink.send([first])
            except SinkError as error:
                reason = f"The sink fails over it: {error}"
            except BatchRefusedError:
                return None  # the next batch deals with it
            else:
                return None
        return numbers[0], Rejection(str(first["event.id"]), reason, first)


def send_in_parts(sink: Sink, events: Events, confirm: Callable[[int, Sequence[Rejection]], None]) -> None:
    """Send events in order. Halve a batch that the sink refuses.

    `confirm` is called after each part, in order, with the number of its events and its rejections.

    Raises:
        SinkError: if the sink fails. The parts before were confirmed.
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
            _log_rejection(sink, rejection)


def _log_rejection(sink: Sink, rejection: Rejection) -> None:
    log.error("Sink %s refuses event %s: %s", sink.name, rejection.id, rejection.reason)
