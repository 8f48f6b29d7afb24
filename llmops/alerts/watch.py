"""Judging every minute and telling receivers, in the background of a process."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from llmops.alerts.judge import Judge
from llmops.alerts.outbox import deliver
from llmops.alerts.receivers import Receiver, receivers_of, service
from llmops.config import Config
from llmops.errors import ConfigError
from llmops.state.database import database_of

log = logging.getLogger(__name__)

DELIVER_S = 5.0  #: how often it is looked whether a receiver has to be told


class Watch:
    """A thread that judges, and one for each receiver, so that none waits for another.

    Several processes may do so with one database: each alert is raised and resolved once.

    Args:
        config: the rules, how often they are judged, and the receivers.
        waiting: how many requests wait for the engines of this process.
    """

    def __init__(self, config: Config, waiting: Callable[[], int] | None = None) -> None:
        self._config, self._waiting = config, waiting
        deliver_s = min(DELIVER_S, config.alerts.every_s)
        self._stopped = threading.Event()
        self._threads = [
            threading.Thread(target=self._judge, name="alerts", daemon=True),
            *(
                threading.Thread(
                    target=self._every, args=(deliver_s, self._telling(receiver)), name=f"tell {receiver.name}",
                    daemon=True,
                )
                for receiver in receivers_of(config)
            ),
        ]  # fmt: skip

    def start(self) -> None:
        """Begin, if the configuration says how often."""
        if self._config.alerts.every_s:
            for thread in self._threads:
                thread.start()

    def stop(self, timeout_s: float = 10.0) -> None:
        """End; what was not told waits in the database."""
        self._stopped.set()
        end = time.monotonic() + timeout_s
        for thread in self._threads:
            if thread.ident:
                thread.join(max(0.0, end - time.monotonic()))

    def wait(self) -> None:
        """Until somebody stops it."""
        self._stopped.wait()

    def _judge(self) -> None:
        for settings in self._config.alerts.receivers:
            try:
                service(settings)
            except ConfigError as error:  # now, not when something is to be told; the other receivers work
                log.error("%s", error)
        judge = Judge(self._config, waiting=self._waiting)
        self._every(self._config.alerts.every_s, judge.judge)

    def _telling(self, receiver: Receiver) -> Callable[[], object]:
        database = database_of(self._config)
        return lambda: deliver(database, receiver)

    def _every(self, seconds: float, work: Callable[[], object]) -> None:
        while not self._stopped.wait(seconds):
            try:
                work()
            except Exception:  # the database is away, say: the thread outlives that
                log.exception("Alerts: %s failed; next try in %g s", threading.current_thread().name, seconds)
