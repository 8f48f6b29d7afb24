"""Shipping: each sink has its own thread, which sends it the waiting events.

A sink that starts to fail, recovers, or gets its first dead letter causes an event (`llmops.sink`): one per change,
from the process that sees it first.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

from llmops.config import Monitoring
from llmops.events.datasets import SINK
from llmops.events.delivery import Delivery, Shipment, send_in_parts
from llmops.events.events import build_event
from llmops.events.sinks.factory import make_sinks
from llmops.events.sinks.sink import Rejection, Sink, SinkError
from llmops.events.spool import BATCH_SIZE, Spool

log = logging.getLogger(__name__)

END_ACTIONS = {"failing": "recovered", "refusing": "settled"}  #: state of a sink → `event.action` when it ends


def ship_events(folder: Path, sinks: Sequence[Sink]) -> dict[str, Shipment]:
    """Send every waiting event to every sink. The events of a failing sink wait; the other sinks get theirs.

    Several processes may ship at once: an event may then arrive twice, but none is lost.
    """
    with Spool(folder) as spool:
        spool.register(sink.name for sink in sinks)
    with ThreadPoolExecutor(max(1, len(sinks)), "ship") as threads:
        shipped = list(threads.map(lambda sink: _ship_to_sink(folder, Delivery(sink)), sinks))
    shipments = {sink.name: shipment for sink, shipment in zip(sinks, shipped, strict=True)}
    with Spool(folder) as spool:
        waiting = spool.count_waiting()
    for sink in sinks:
        if waiting[sink.name] and not shipments[sink.name].error:
            _ship_to_sink(folder, Delivery(sink))  # events about state changes of other sinks
    return shipments


def drain_spool(folder: Path, config: Monitoring) -> dict[str, Shipment]:
    """Ship all waiting events once, for a command or a task.

    Raises:
        SinkError: naming each sink that did not take all its events. The events wait in the spool.
    """
    sinks = make_sinks(folder, config)
    try:
        with Spool(folder) as spool:
            spool.set_bounds(config.spool_max_mb, config.spool_free_mb)
        shipments = ship_events(folder, sinks)
        with Spool(folder) as spool:
            others = {name: count for name, count in spool.count_waiting().items() if count and name not in shipments}
    finally:
        for sink in sinks:
            sink.close()
    if others:
        log.warning(
            "The spool keeps events for sinks that monitoring.sinks does not name: %s. If one is not coming back: "
            "llmops events forget SINK.",
            others,
        )
    if failed := [f"{name}: {shipment.error}" for name, shipment in shipments.items() if shipment.error]:
        raise SinkError("Some events could not be delivered and wait in the spool. " + " ".join(failed))
    return shipments


def resend_rejected(folder: Path, sinks: Sequence[Sink]) -> dict[str, Shipment]:
    """Send the dead letters of these sinks again. A refused letter stays, with its new reason."""
    shipments = {}
    for sink in sinks:
        with Spool(folder) as spool:
            shipments[sink.name] = _resend_to_sink(spool, sink)
            if not spool.count_rejected().get(sink.name):
                _record_state(spool, sink.name, "refusing", "")
    return shipments


class Shipper:
    """A background shipper. It ships every `period_s`; to a failing sink less often, down to every `max_period_s`."""

    def __init__(self, folder: Path, sinks: Sequence[Sink], period_s: float = 1.0, max_period_s: float = 60.0) -> None:
        self._folder, self._period_s, self._max_period_s = folder, period_s, max_period_s
        self._stop_asked = threading.Event()
        self._sinks = list(sinks)
        self._threads = [
            threading.Thread(target=self._run, args=(sink,), name=f"shipper {sink.name}", daemon=True) for sink in sinks
        ]

    def start(self) -> None:
        """Start the threads."""
        with Spool(self._folder) as spool:
            spool.register(sink.name for sink in self._sinks)
        for thread in self._threads:
            thread.start()

    def stop(self, timeout_s: float = 10.0) -> None:
        """Ship the waiting events once more and stop. Events that a failing sink did not take wait in the spool."""
        self._stop_asked.set()
        end = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))

    def _run(self, sink: Sink) -> None:
        delivery, failures, pause_s, stopping = Delivery(sink), 0, self._period_s, False
        while not stopping:
            stopping = self._stop_asked.wait(pause_s)
            pause_s = self._period_s
            try:
                shipment = _ship_to_sink(self._folder, delivery)
            except Exception:  # the thread survives a full disk or a bug in a sink; trying again loses nothing
                log.exception("Events could not be shipped from %s; they wait there", self._folder)
                continue
            failures = failures + 1 if shipment.error else 0
            if failures:
                ceiling = min(self._max_period_s, self._period_s * 2 ** min(failures, 16))
                pause_s = random.uniform(ceiling / 2, ceiling)
                log.warning("Sink %s: %s Next try in %.0f s.", sink.name, shipment.error, pause_s)
        sink.close()


def make_shipper(folder: Path, config: Monitoring) -> Shipper:
    """Return a shipper to the configured sinks, not started, and apply the configured bounds of the spool."""
    with Spool(folder) as spool:
        spool.set_bounds(config.spool_max_mb, config.spool_free_mb)
    return Shipper(folder, make_sinks(folder, config))


def _ship_to_sink(folder: Path, delivery: Delivery) -> Shipment:
    name = delivery.sink.name
    with Spool(folder) as spool:
        shipment = delivery.ship(spool)
        if shipment.error or shipment.sent:
            _record_state(spool, name, "failing", shipment.error)
        if shipment.rejected:
            letters = spool.read_rejected(name)
            _record_state(spool, name, "refusing", next((letter.reason for _, letter in letters), ""))
            letters.close()
    return shipment


def _record_state(spool: Spool, sink: str, state: str, reason: str) -> None:
    if bool(reason) == (sink in spool.find_sinks_in_state(state)):
        return
    event = build_event(
        SINK,
        {
            "event.action": state if reason else END_ACTIONS[state],
            "event.outcome": "failure" if reason else "success",
            "event.reason": reason,
            "llmops.sink.name": sink,
            "llmops.sink.waiting": spool.count_waiting().get(sink, 0),
            "llmops.sink.rejected": spool.count_rejected().get(sink, 0),
        },
    )
    spool.change_state(sink, state, reason, event)


def _resend_to_sink(spool: Spool, sink: Sink) -> Shipment:
    letters, sent, rejected = spool.read_rejected(sink.name), 0, 0
    while documents := [letter.document for _, letter in islice(letters, BATCH_SIZE)]:
        done = 0

        def confirm(count: int, refused: Sequence[Rejection], documents: Sequence[dict[str, Any]] = documents) -> None:
            nonlocal done, rejected
            spool.settle_rejected(
                sink.name, [str(event["event.id"]) for event in documents[done : done + count]], refused
            )
            done, rejected = done + count, rejected + len(refused)

        try:
            send_in_parts(sink, documents, confirm)
        except SinkError as error:
            return Shipment(sent + done, rejected, str(error))
        sent += done
    return Shipment(sent, rejected)
