"""The background threads that check rules and notify receivers."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from llmops.config import Config
from llmops.frame.errors import ConfigError
from llmops.monitoring.alerts.outbox import deliver_messages
from llmops.monitoring.alerts.receivers import Receiver, build_service, make_receivers
from llmops.monitoring.alerts.rule_checker import RuleChecker
from llmops.state.database import database_of

log = logging.getLogger(__name__)

DELIVER_S = 5.0  #: seconds between checks for waiting messages


class AlertThreads:
    """A thread that checks the rules, and one per receiver, so that none waits for another.

    Several processes may do this with one database: each alert is raised and resolved once.
    """

    def __init__(self, config: Config, count_waiting: Callable[[], int] | None = None) -> None:
        self._config, self._count_waiting = config, count_waiting
        deliver_s = min(DELIVER_S, config.alerts.every_s)
        self._stopped = threading.Event()
        self._threads = [
            threading.Thread(target=self._check, name="alerts", daemon=True),
            *(
                threading.Thread(
                    target=self._repeat, args=(deliver_s, self._deliver_to(receiver)), name=f"notify {receiver.name}",
                    daemon=True,
                )
                for receiver in make_receivers(config)
            ),
        ]  # fmt: skip

    def start(self) -> None:
        """Start the threads, unless `alerts.every_s` is 0."""
        if self._config.alerts.every_s:
            for thread in self._threads:
                thread.start()

    def stop(self, timeout_s: float = 10.0) -> None:
        """Stop the threads. Unsent messages wait in the database."""
        self._stopped.set()
        end = time.monotonic() + timeout_s
        for thread in self._threads:
            if thread.ident:
                thread.join(max(0.0, end - time.monotonic()))

    def wait(self) -> None:
        """Wait until another thread calls `stop`."""
        self._stopped.wait()

    def _check(self) -> None:
        for settings in self._config.alerts.receivers:
            try:
                build_service(settings)
            except ConfigError as error:  # reported at the start instead of at the first alert; other receivers work
                log.error("%s", error)
        checker = RuleChecker(self._config, count_waiting=self._count_waiting)
        self._repeat(self._config.alerts.every_s, checker.check)

    def _deliver_to(self, receiver: Receiver) -> Callable[[], object]:
        database = database_of(self._config)
        return lambda: deliver_messages(database, receiver)

    def _repeat(self, seconds: float, task: Callable[[], object]) -> None:
        while not self._stopped.wait(seconds):
            try:
                task()
            except Exception:  # for example, the database is away: the thread survives
                log.exception("Alerts: %s failed; next try in %g s", threading.current_thread().name, seconds)
