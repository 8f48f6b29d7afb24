"""Raised once, resolved once, told at least once: for many processes, and whatever kills one."""

import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from llmops.config import Config
from llmops.events.datasets import ALERT, SERVING
from llmops.events.events import build_event, format_timestamp
from llmops.events.shipping import drain_spool
from llmops.events.sinks.local import LocalStore
from llmops.frame.errors import ConfigError
from llmops.monitoring.alerts import lifecycle, outbox
from llmops.monitoring.alerts.breach import Breach
from llmops.monitoring.alerts.outbox import deliver_messages, deliver_to_all
from llmops.monitoring.alerts.receivers import make_receivers
from llmops.monitoring.alerts.rule_checker import build_alert_report, check_once
from llmops.state.database import database_of
from llmops.state.tables import alert_deliveries

NOW = datetime(2026, 1, 10, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
HOOK = {"name": "hook", "url": "json://127.0.0.1:9/"}
SLOW = Breach("latency_p95", "It is slow.", value=1500.0, bound=1000.0)


@pytest.fixture
def config(database_url: str, tmp_path: Path) -> Config:
    return Config(home=tmp_path, state={"url": database_url}, alerts={"receivers": [HOOK]})


@pytest.fixture
def here(tmp_path: Path) -> Config:
    return Config(home=tmp_path, alerts={"receivers": [HOOK]})


class FlakyReceiver:
    """A receiver that remembers, and fails so often first."""

    def __init__(self, name: str = "hook", failures: int = 0) -> None:
        self.name, self.failures = name, failures
        self.documents: list[Mapping[str, Any]] = []

    def send(self, document: Mapping[str, Any]) -> None:
        if self.failures:
            self.failures -= 1
            raise ConnectionError("it is down")
        self.documents.append(document)


def check(config: Config, minute: float, *breaches: Breach, machine: str = "") -> list[str]:
    rules = {"latency_p95", "error_rate", "spool"}
    return [
        change["state"] for change in lifecycle.update_alerts(config, breaches, rules, NOW + minute * MINUTE, machine)
    ]


def read_waiting(config: Config) -> list[tuple[str, str]]:
    select = sa.select(alert_deliveries).where(alert_deliveries.c.ended == "").order_by(alert_deliveries.c.created)
    with database_of(config).read() as connection:
        return [(row.receiver, row.document["state"]) for row in connection.execute(select)]


def read_hook_messages(config: Config) -> list[str]:
    return [state for name, state in read_waiting(config) if name == "hook"]


def run_together(*functions: Callable[[], object]) -> None:
    """Run in a thread each."""
    with ThreadPoolExecutor(len(functions)) as threads:
        for done in [threads.submit(function) for function in functions]:
            done.result(50)


def make_due(config: Config) -> None:
    with database_of(config).change() as connection:
        connection.execute(sa.update(alert_deliveries).values(due=""))


def test_raised_once_and_resolved_once_it_has_been_fine_for_a_while(config: Config) -> None:
    result = [check(config, minute, *([SLOW] if minute < 4 else [])) for minute in range(12)]
    assert result == [["raised"], [], [], [], [], [], [], [], ["resolved"], [], [], []]
    result = lifecycle.list_alerts(config, NOW + 20 * MINUTE)
    assert result["open"] == [] and len(result["over"]) == 1


def test_what_comes_and_goes_is_one_alert(here: Config) -> None:
    flapping = [check(here, minute, *([SLOW] if minute % 4 == 0 else [])) for minute in range(20)]
    assert [state for states in flapping for state in states] == ["raised"]
    assert (
        lifecycle.update_alerts(here, [], {"error_rate"}, NOW + 80 * MINUTE) == []
    )  # what could not be judged is not over
    assert check(here, 81) == ["resolved"] and len(lifecycle.list_alerts(here, NOW)["over"]) == 1
    check(here, 81 + 60 * 24 * 91)  # what has been over for long is forgotten
    assert lifecycle.list_alerts(here, NOW)["over"] == []


def test_what_another_machine_alone_can_see_is_its_own_until_it_is_gone(here: Config) -> None:
    for machine in ("one", "two"):
        stuck = Breach("spool", "It waits.", subject="elasticsearch", machine=machine)
        assert check(here, 0, stuck, machine=machine) == ["raised"]
    assert check(here, 30, machine="two") == ["resolved"]  # its own
    assert check(here, 59, machine="two") == []
    assert check(here, 61, machine="two") == ["resolved"]  # of one, which has said nothing for an hour


def test_two_replicas_in_step_raise_and_resolve_once(config: Config) -> None:
    barrier = threading.Barrier(2)

    def replica() -> None:
        for minute in range(12):
            barrier.wait(50)
            check(config, minute, *([SLOW] if minute < 4 else []))

    run_together(replica, replica)
    assert read_hook_messages(config) == ["raised", "resolved"]


def test_who_looks_rarely_is_not_overruled_between_two_looks(here: Config) -> None:
    rarely = here.model_copy(update={"alerts": here.alerts.model_copy(update={"every_s": 600.0})})
    states = [check(rarely, minute, *([SLOW] if minute % 10 == 0 else [])) for minute in (0, 6, 10, 16, 20, 26, 36, 46)]
    assert states == [["raised"], [], [], [], [], [], [], ["resolved"]]


def test_alerts_of_a_time_are_those_that_were_told(here: Config) -> None:
    drift = Breach("drift", "It drifts.", subject="v1")
    made = lifecycle.add_silence(here, "drift", "", "we know", "ana", NOW, NOW + timedelta(hours=9))
    check(here, 1, SLOW, drift)

    def notified(since: float, until: float) -> list[str]:
        between = NOW + since * MINUTE, NOW + until * MINUTE
        return [row["rule"] for row in lifecycle.read_notified_alerts(here, ("drift", "latency_p95"), *between)]

    assert notified(0, 60) == ["latency_p95"] and notified(2, 60) == []
    lifecycle.end_silence(here, made["id"], "ana", NOW + 70 * MINUTE)
    assert notified(0, 60) == ["latency_p95"] and notified(60, 120) == ["drift"]


def test_a_silenced_alert_is_told_to_nobody_until_the_silence_ends(config: Config) -> None:
    end = NOW + timedelta(hours=2)
    made = lifecycle.add_silence(config, "latency_p95", "", "we move the database", "ana", NOW, end)
    check(config, 1, SLOW)
    check(config, 2, SLOW)
    assert sorted(read_waiting(config)) == [("event", "silenced"), ("log", "silenced")]
    assert [row["told"] for row in lifecycle.list_alerts(config, NOW)["open"]] == [""]
    lifecycle.end_silence(config, made["id"], "ana", NOW + 3 * MINUTE)
    assert read_hook_messages(config) == ["raised"]
    with pytest.raises(ConfigError, match="no active silence"):
        lifecycle.end_silence(config, made["id"], "ana", NOW + 4 * MINUTE)
    assert check(config, 10) == ["resolved"]
    assert read_hook_messages(config) == ["raised", "resolved"]


def test_what_begins_and_ends_in_silence_is_told_to_nobody_and_what_outlasts_it_is(here: Config) -> None:
    lifecycle.add_silence(here, "latency_p95", "", "we move", "ana", NOW, NOW + 15 * MINUTE)
    lifecycle.add_silence(here, "spool", "elasticsearch", "it is moved", "ana", NOW, NOW + timedelta(hours=1))
    check(here, 1, SLOW)
    assert check(here, 10) == ["resolved"] and read_hook_messages(here) == []
    local = Breach("spool", "It waits.", subject="local")  # a silence of one subject is of no other
    check(here, 11, SLOW, local)
    assert read_hook_messages(here) == ["raised"]
    check(here, 16, SLOW, local)
    assert read_hook_messages(here) == ["raised", "raised"]


@pytest.mark.parametrize(("reason", "hours"), [("  ", 1), ("why", 0)])
def test_a_silence_needs_a_reason_and_an_end(here: Config, reason: str, hours: float) -> None:
    with pytest.raises(ConfigError):
        lifecycle.add_silence(here, "disk", "", reason, "ana", NOW, NOW + timedelta(hours=hours))


def test_a_receiver_that_was_down_is_told_in_order(here: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "MIN_PAUSE_S", 3600.0)
    check(here, 0, SLOW)
    check(here, 9)
    hook = FlakyReceiver(failures=2)
    for sent in (0, 0, 2):
        assert deliver_messages(database_of(here), hook) == sent
        assert deliver_messages(database_of(here), hook) == 0  # not due
        make_due(here)
    assert [document["state"] for document in hook.documents] == ["raised", "resolved"]
    assert deliver_messages(database_of(here), hook) == 0


def test_one_bad_receiver_stops_no_other_and_each_is_told_of_its_severities(tmp_path: Path) -> None:
    receivers = [{**HOOK, "name": "bad"}, {**HOOK, "name": "good", "severities": ["critical"]}]
    config = Config(home=tmp_path, alerts={"receivers": receivers})
    check(config, 0, SLOW, Breach("spool", "It waits."))
    names = [name for name, _ in read_waiting(config)]
    assert (names.count("bad"), names.count("good")) == (2, 1)
    sent = deliver_to_all(database_of(config), [FlakyReceiver("bad", failures=9), FlakyReceiver("good")])
    assert sent == {"bad": 0, "good": 1}
    assert "ConnectionError: it is down" in [row["error"] for row in lifecycle.list_alerts(config, NOW)["deliveries"]]


def test_after_a_day_it_is_given_up_and_said(here: Config) -> None:
    check(here, 0, SLOW)
    with database_of(here).change() as connection:
        old = format_timestamp(datetime.now(UTC) - timedelta(hours=25))
        connection.execute(sa.update(alert_deliveries).values(created=old))
    assert deliver_messages(database_of(here), FlakyReceiver(failures=1)) == 0
    listed = lifecycle.list_alerts(here, datetime.now(UTC))["deliveries"]
    assert [(row["receiver"], row["outcome"]) for row in listed] == [("hook", "given_up")]


DIE = """
import os, signal, sys
from llmops.monitoring.alerts import lifecycle, outbox
from llmops.monitoring.alerts.breach import Breach
from llmops.config import Config
from llmops.state.database import database_of
from datetime import UTC, datetime

class Dying:
    name = "hook"

    def send(self, document):
        os.kill(os.getpid(), signal.SIGKILL)

receiver = {"name": "hook", "url": "json://127.0.0.1:9/"}
config = Config(home=sys.argv[1], state={"url": sys.argv[2]}, alerts={"receivers": [receiver]})
noon = datetime(2026, 1, 10, 12, tzinfo=UTC)
lifecycle.update_alerts(config, [Breach("latency_p95", "It is slow.")], {"latency_p95"}, noon)
if sys.argv[3] == "sending":
    outbox.deliver_messages(database_of(config), Dying())
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("when", ["raised", "sending"])
def test_killed_between_raise_and_delivery_it_is_delivered_after_a_restart(config: Config, when: str) -> None:
    command = [sys.executable, "-c", DIE, str(config.home), config.state.url, when]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50)
    assert done.returncode == -signal.SIGKILL, done.stderr
    hook = FlakyReceiver()
    if when == "sending":  # nobody else sends it meanwhile
        assert deliver_messages(database_of(config), hook) == 0
        make_due(config)
    assert deliver_messages(database_of(config), hook) == 1
    assert [document["state"] for document in hook.documents] == ["raised"]
    assert check(config, 1, SLOW) == []


def test_two_that_deliver_at_once_tell_it_once(config: Config) -> None:
    check(config, 0, SLOW)
    hook, barrier = FlakyReceiver(), threading.Barrier(2)

    def send() -> None:
        barrier.wait(50)
        deliver_messages(database_of(config), hook)

    run_together(send, send)
    assert len(hook.documents) == 1


def test_events_tell_how_it_stands_and_are_stored_once(here: Config) -> None:
    check(here, 0, SLOW)
    check(here, 9)
    for _ in range(2):
        deliver_messages(database_of(here), make_receivers(here)[1])
        with database_of(here).change() as connection:
            connection.execute(sa.update(alert_deliveries).values(ended="", due=""))
    drain_spool(here.events, here.monitoring)
    raised, resolved = LocalStore(here.events).find(ALERT)
    assert raised["llmops.alert.id"] == resolved["llmops.alert.id"]
    assert (raised["llmops.alert.state"], raised["rule.name"]) == ("raised", "latency_p95")
    assert (raised["llmops.alert.value"], raised["llmops.alert.bound"]) == (1500, 1000)
    assert resolved["llmops.alert.state"] == "resolved"
    assert resolved["llmops.alert.resolved"] == format_timestamp(NOW + 9 * MINUTE)


def test_one_look_without_an_app_raises_and_tells(tmp_path: Path) -> None:
    """The hourly DAG looks so, where neither an app nor `llmops alerts watch` runs."""
    config = Config(home=tmp_path, alerts={"disk_free": 0})
    answered = {"http.response.status_code": 200, "event.duration": int(2e9)}
    moments = [datetime.now(UTC) - n * timedelta(seconds=1) for n in range(1, 61)]
    slow = [build_event(SERVING, {"@timestamp": format_timestamp(moment), **answered}) for moment in moments]
    LocalStore(config.events).send(slow)
    assert [(t["state"], t["rule"]) for t in check_once(config)] == [("raised", "latency_p95")]
    assert check_once(config) == [] and read_waiting(config) == []
    for hours, rules in ((-1, []), (0, ["latency_p95"])):
        since = datetime.now(UTC) + timedelta(hours=hours - 0.5)
        found = build_alert_report(config, since, since + timedelta(hours=1 if hours == 0 else 0.5))
        assert [alert["rule"] for alert in found["alerts"]] == rules, hours
