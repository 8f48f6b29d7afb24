"""Bringing what waits to one sink, piece by piece, so that one event that no sink can take holds up no other.

A batch that is refused as a whole is sent in halves until those at fault are alone. While a sink fails, batches get
smaller from try to try, down to one event; if then that one still fails while the one behind it is taken, it is at
fault, however the sink says so (500, a hang), and becomes a dead letter. A sink that is down takes neither, and its
events wait; so do those of one that somebody has to mend first.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from llmops.monitoring.sinks.base import BatchRefusedError, Rejection, Sink, SinkError, SinkMisconfiguredError
from llmops.monitoring.spool import BATCH, Spool

log = logging.getLogger(__name__)

PROOFS = 3  #: how often a sink must fail over an event, after it took the next one, for the event to be at fault
PAUSE_S = 1.0  #: between the tries of `ship_patiently`: a sink that is busy gets room
PATIENCE_S = 300.0  #: no try of `ship_patiently` begins after this: half of what Airflow gives the task

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
            except SinkMisconfiguredError as error:
                return Shipment(sent + done, rejected, str(error))
            except SinkError as error:
                sent += done
                if culprit := self._culprit(spool):
                    spool.ack(name, culprit[0], [culprit[1]])
                    _log(self.sink, culprit[1])
                    sent, rejected = sent + 1, rejected + 1
                    continue
                self._size = max(1, min(self._size, len(events)) // 2)
                return Shipment(sent, rejected, str(error))
            sent += done
            self._size = min(BATCH, self._size * 2)

    def ship_patiently(self, spool: Spool) -> Shipment:
        """Bring everything that waits; when the sink fails, try again at once, with fewer events, down to one.

        For who does not come back soon, so that one event at fault, or batches that are too large for the sink, hold up
        nothing for good. A sink that takes nothing is asked ten times at most (500 events down to one are nine tries,
        and the event after it is tried alone), a second apart: less than two minutes if it lets each wait for 10 s. One
        that takes some goes on; no try begins after five minutes.
        """
        end, sent, rejected = time.monotonic() + PATIENCE_S, 0, 0
        while True:
            size = self._size
            shipment = self.ship(spool)
            sent, rejected = sent + shipment.sent, rejected + shipment.rejected
            helps = shipment.sent or self._size < size
            if not shipment.error or not helps or time.monotonic() + PAUSE_S > end:
                return Shipment(sent, rejected, shipment.error)
            log.warning("Sink %s: %s Next try by batches of %d.", self.sink.name, shipment.error, self._size)
            time.sleep(PAUSE_S)

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
            except SinkMisconfiguredError:
                return None
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
