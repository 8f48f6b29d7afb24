"""Judging all rules at a moment, and catching up with moments when nobody did."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from llmops.alerts import conditions, ledger
from llmops.alerts.finding import Finding
from llmops.alerts.outbox import deliver_all
from llmops.alerts.receivers.kinds import receivers_of
from llmops.alerts.traffic import BURNS, Traffic, judge_burns, judge_requests
from llmops.config import Config
from llmops.errors import ConfigError
from llmops.monitoring.reader import Reader, reader_of
from llmops.state.database import database_of

log = logging.getLogger(__name__)

LOOKS = 3  #: in a row at which a queue has to be long
_REQUESTS = ("latency_p95", "error_rate", "queue_time", "guard_rejections")

Check = Callable[[datetime], list[Finding]]


class Judge:
    """Judges the rules of a configuration. For one thread.

    Args:
        config: rules and objectives.
        reader: of the events; by default what the configuration says. Without one, rules about events are not judged.
        waiting: how many requests wait for the engines of this process, if it has any.
    """

    def __init__(self, config: Config, reader: Reader | None = None, waiting: Callable[[], int] | None = None) -> None:
        self._config, self._waiting = config, waiting
        self._queue: deque[int] = deque(maxlen=LOOKS)
        self._checks: dict[tuple[str, ...], Check] = {
            ("spool",): partial(conditions.spool, config),
            ("disk",): partial(conditions.disk, config),
            ("dag_missing",): partial(conditions.dag_missing, config),
            ("key_expiring",): partial(conditions.key_expiring, config),
            ("trial_error",): partial(conditions.trial_error, config),
        }
        if waiting:
            self._checks[("queue_length",)] = self._long_queue
        if reader := reader or _reader(config):
            traffic = Traffic(reader, timedelta(minutes=config.alerts.window_minutes))
            self._checks |= {
                (*_REQUESTS, *BURNS): partial(_requests, config, traffic),
                ("drift",): partial(conditions.drift, config, reader),
                ("decay",): partial(conditions.decay, config, reader),
                ("stage_failed",): partial(conditions.stage_failed, config, reader),
            }

    def judge(self, now: datetime | None = None) -> list[dict[str, Any]]:
        """Judge all rules; returns what was raised or resolved. A rule that cannot be judged changes nothing.

        Raises:
            StateError: if the database cannot be used.
        """
        now = now or datetime.now(UTC)
        findings: list[Finding] = []
        judged: set[str] = set()
        for rules, check in self._checks.items():
            try:
                findings += check(now)
                judged.update(rules)
            except Exception:  # a reader that is down, say: the other rules are judged all the same
                log.exception("The rules %s cannot be judged", ", ".join(rules))
        findings = [finding for finding in findings if finding.rule not in self._config.alerts.off]
        return ledger.judged(self._config, findings, judged, now, conditions.place(self._config))

    def _long_queue(self, now: datetime) -> list[Finding]:
        assert self._waiting
        self._queue.append(self._waiting())
        bound, least = self._config.alerts.queue_length, min(self._queue)
        if len(self._queue) < LOOKS or least < bound:
            return []
        message = f"At least {least} requests waited for the engines at {LOOKS} looks in a row; {bound} raise this."
        place = conditions.place(self._config)
        return [Finding("queue_length", message, value=least, bound=bound, place=place)]


def catch_up(config: Config, since: datetime, until: datetime) -> list[dict[str, Any]]:
    """Judge a time in which nobody did, a window after the other, and tell receivers what waits.

    What was judged already, by the serving app say, is not judged again; so a second time changes nothing.

    Returns:
        What was raised or resolved.
    """
    told: list[dict[str, Any]] = []
    known = ledger.heartbeats(config).get(ledger.JUDGED)
    step = timedelta(minutes=config.alerts.window_minutes)
    moment = max(since, datetime.fromisoformat(known)) if known else since
    judge = Judge(config)
    while moment < until:
        moment = min(moment + step, until)
        told += judge.judge(moment)
    deliver_all(database_of(config), receivers_of(config))
    return told


def _requests(config: Config, traffic: Traffic, now: datetime) -> list[Finding]:
    return [*judge_requests(config, traffic.read(now), now), *judge_burns(config, traffic, now)]


def _reader(config: Config) -> Reader | None:
    try:
        return reader_of(config)
    except ConfigError as error:
        log.warning("Rules about events are not judged: %s", error)
        return None
