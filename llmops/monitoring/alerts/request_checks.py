"""Checks of requests: duration, waiting time, failures, and answers cut by the guard.

Each operation, which is a route, has its own figures and its own alerts: many vectors must not hide failed answers. The
time in the queue is judged for all together, because they share the engines. The error rate is the share of 5xx among
answered and failed requests; a caller's own mistakes (4xx) do not count. Each burn rate uses two windows (Google, The
Site Reliability Workbook, chapter 5): the long one shows that it matters, the short one that it continues.
"""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from llmops.config import Config
from llmops.config.alerts import Rule
from llmops.events.datasets import SERVING
from llmops.events.events import format_timestamp
from llmops.events.figures.requests import compute_percentile
from llmops.events.reader import Reader
from llmops.monitoring.alerts.breach import Breach, get_machine_id

_REQUEST_FIELDS = (
    "url.path",
    "http.response.status_code",
    "event.duration",
    "llmops.queue_time",
    "llmops.guard.rules",
)
#: rule → short and long window that must both burn too fast, in multiples of `alerts.window_minutes`
BURN_WINDOWS: dict[Rule, tuple[int, int]] = {"burn_rate_fast": (1, 12), "burn_rate_slow": (6, 72)}
_UNNAMED_PATH = "/generate"  #: of an event without a path
QUEUE_CHECKS = 3  #: checks in a row at which a queue must be long


class Request(NamedTuple):
    """A request that was answered, or failed without the caller's fault."""

    path: str
    failed: bool
    ms: float
    waited_ms: float | None
    cut_by_guard: bool  #: the guard cut its answer


class CheckInputs:
    """The inputs of all checks. For one thread.

    `count_waiting` returns the number of requests that wait for this process' engines. Without a reader, rules about
    events are not checked.
    """

    def __init__(self, config: Config, reader: Reader | None, count_waiting: Callable[[], int] | None = None) -> None:
        self.config, self.reader, self.count_waiting = config, reader, count_waiting
        self.queue_lengths: deque[int] = deque(maxlen=QUEUE_CHECKS)


def check_queue(inputs: CheckInputs, now: datetime) -> list[Breach] | None:
    """Find a queue of requests for this process' engines that is long in several checks in a row."""
    if not inputs.count_waiting:
        return None
    inputs.queue_lengths.append(inputs.count_waiting())
    bound, shortest = inputs.config.alerts.queue_length, min(inputs.queue_lengths)
    if len(inputs.queue_lengths) < QUEUE_CHECKS or shortest < bound:
        return []
    message = (
        f"At least {shortest} requests waited for the engines at {QUEUE_CHECKS} looks in a row; {bound} raise this."
    )
    return [Breach("queue_length", message, value=shortest, bound=bound, machine=get_machine_id(inputs.config))]


def check_requests(inputs: CheckInputs, now: datetime) -> list[Breach] | None:
    """Check the requests of the last window, read once for all rules about them, and the burn rates."""
    config, reader = inputs.config, inputs.reader
    if not reader:
        return None
    requests = read_requests(reader, now - timedelta(minutes=config.alerts.window_minutes), now)
    return [*check_window(config, requests, now), *check_burn_rates(config, reader, now)]


def read_requests(reader: Reader, since: datetime, until: datetime) -> list[Request]:
    """Return the requests with `since <= time < until` that were answered, or failed."""
    rows = reader.select(SERVING, _REQUEST_FIELDS, format_timestamp(since), format_timestamp(until))
    return [
        Request(
            path=path or _UNNAMED_PATH,
            failed=status >= 500,
            ms=(duration or 0) / 1e6,
            waited_ms=None if waited is None else waited / 1e6,
            cut_by_guard=bool(rules),
        )
        for path, status, duration, waited, rules in rows
        if status and (status < 400 or status >= 500)
    ]


def check_window(config: Config, requests: Sequence[Request], now: datetime) -> list[Breach]:
    """Check `queue_time`, and for each operation `latency_p95`, `error_rate` and `guard_rejections`, in one window."""
    min_requests, min_bad = config.monitoring.min_requests, config.alerts.min_bad
    since, until = format_timestamp(now - timedelta(minutes=config.alerts.window_minutes)), format_timestamp(now)
    last = f"in the last {format_minutes(config.alerts.window_minutes)}"
    breaches: list[Breach] = []

    def check_percentile(rule: Rule, path: str, what: str, values: Sequence[float], bound: float) -> None:
        p95, slow = compute_percentile(values, 0.95), sum(value > bound for value in values)
        if p95 is not None and len(values) >= min_requests and slow >= min_bad and p95 > bound:
            message = (
                f"The 95th percentile of {what} is {p95:,.0f} ms {last}, above the {bound:,.0f} ms that are "
                f"promised: {slow} of {len(values)} took longer."
            )
            breaches.append(Breach(rule, message, path, value=p95, bound=bound, since=since, until=until))

    def check_share(rule: Rule, path: str, what: str, bad: int, total: int, bound: float) -> None:
        if total >= min_requests and bad >= min_bad and bad / total > bound:
            message = f"{bad} of {total} {what} {last}, {bad / total:.1%}, more than {bound:.1%}."
            breaches.append(Breach(rule, message, path, value=bad / total, bound=bound, since=since, until=until))

    promised_ms = {str(path): ms for path, ms in config.monitoring.latency_p95_ms_of.items()}
    by_path = defaultdict[str, list[Request]](list)
    for request in requests:
        by_path[request.path].append(request)
    for path, some in sorted(by_path.items()):
        answered = [request for request in some if not request.failed]
        bound_ms = promised_ms.get(path, config.monitoring.latency_p95_ms)
        check_percentile("latency_p95", path, f"answers of {path}", [one.ms for one in answered], bound_ms)
        failed, cut = len(some) - len(answered), sum(one.cut_by_guard for one in answered)
        check_share("error_rate", path, f"requests of {path} failed", failed, len(some), config.monitoring.error_rate)
        what = f"answers of {path} were cut by the guard"
        check_share("guard_rejections", path, what, cut, len(answered), config.alerts.guard_share)
    waits = [one.waited_ms for one in requests if one.waited_ms is not None and not one.failed]
    check_percentile("queue_time", "", "waiting for an engine", waits, config.alerts.queue_time_ms)
    return breaches


def check_burn_rates(config: Config, reader: Reader, now: datetime) -> list[Breach]:
    """Check the burn rates of each operation. The long window is only counted if the short one burns too fast."""
    budget, minutes = config.monitoring.error_rate, config.alerts.window_minutes
    breaches: list[Breach] = []
    for rule, (short, long) in BURN_WINDOWS.items() if budget else ():
        bound = config.alerts.burn_fast if rule == "burn_rate_fast" else config.alerts.burn_slow
        recent = count_failing(reader, now - timedelta(minutes=short * minutes), now, config.alerts.min_bad)
        burning = {path: failed / total / budget for path, (total, failed) in recent.items()}
        burning = {path: burn for path, burn in burning.items() if burn > bound}
        start = now - timedelta(minutes=long * minutes)
        before = count_failing(reader, start, now, config.alerts.min_bad) if burning else {}
        for path, burn in sorted(burning.items()):
            total, failed = before.get(path, (0, 0))
            if total >= config.monitoring.min_requests and (burn_before := failed / total / budget) > bound:
                message = (
                    f"Requests of {path} fail {burn:.1f} times as fast as the promised {budget:.1%} allow in the last "
                    f"{format_minutes(short * minutes)} and {burn_before:.1f} times in the last "
                    f"{format_minutes(long * minutes)} ({failed} of {total}); {bound:g} times raise this."
                )
                since, until = format_timestamp(start), format_timestamp(now)
                breaches.append(Breach(rule, message, path, value=burn, bound=bound, since=since, until=until))
    return breaches


def count_failing(reader: Reader, since: datetime, until: datetime, min_bad: int) -> dict[str, tuple[int, int]]:
    """Return the operations with at least `min_bad` failures: their answered and failed requests, and failed ones.

    The reader counts them, which needs no memory here. The window is extended to whole minutes, whose failures the
    local store has already counted: it reads the single requests only if there are enough failures.
    """
    minutes = (math.floor(since.timestamp() / 60), math.ceil(until.timestamp() / 60))
    first, last = (datetime.fromtimestamp(60 * minute, UTC) for minute in minutes)
    if reader.summarize(first, last).total.failed < min_bad:
        return {}
    counts = reader.count_by_path(first, last).items()
    return {path or _UNNAMED_PATH: (total, failed) for path, (total, failed) in counts if failed >= min_bad}


def format_minutes(minutes: float) -> str:
    """Return a time in words."""
    if minutes < 1:
        return f"{minutes * 60:g} s"
    return f"{minutes:g} min" if minutes < 120 else f"{minutes / 60:g} h"
