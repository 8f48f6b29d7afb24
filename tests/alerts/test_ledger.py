"""Raised once, resolved once, told at least once: for many processes, and whatever kills one."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from llmops.alerts import ledger, outbox
from llmops.alerts.finding import Finding
from llmops.alerts.judge import catch_up
from llmops.alerts.outbox import deliver, deliver_all
from llmops.alerts.receivers.house import Events
from llmops.config import Config
from llmops.errors import ConfigError
from llmops.monitoring.datasets import ALERT, SERVING
from llmops.monitoring.events import build, timestamp
from llmops.monitoring.shipping import drain
from llmops.monitoring.sinks.local import LocalStore
from llmops.state.database import database_of
from llmops.state.tables import alert_deliveries

spawn = multiprocessing.get_context("spawn")
NOW = datetime(2026, 1, 10, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
HOOK = {"name": "hook", "kind": "webhook", "url": "http://127.0.0.1:9/"}
SLOW = Finding("latency_p95", "It is slow.", value=1500.0, bound=1000.0)


@pytest.fixture(params=["sqlite", "postgresql"])
def config(request: pytest.FixtureRequest, tmp_path: Path) -> Config:
    url = "" if request.param == "sqlite" else request.getfixturevalue("postgresql")()
    return Config(home=tmp_path, state={"url": url}, alerts={"receivers": [HOOK]})


@pytest.fixture
def here(tmp_path: Path) -> Config:
    return Config(home=tmp_path, alerts={"receivers": [HOOK]})


class Told:
    """A receiver that remembers, and fails so often first."""

    def __init__(self, name: str = "hook", failures: int = 0) -> None:
        self.name, self.timeout_s, self.failures = name, 1.0, failures
        self.documents: list[Mapping[str, Any]] = []

    def send(self, document: Mapping[str, Any]) -> None:
        if self.failures:
            self.failures -= 1
            raise ConnectionError("it is down")
        self.documents.append(document)


def judge(config: Config, minute: float, *findings: Finding, place: str = "") -> list[str]:
    rules = {"latency_p95", "error_rate", "spool"}
    return [told["state"] for told in ledger.judged(config, findings, rules, NOW + minute * MINUTE, place)]


def waiting(config: Config) -> list[tuple[str, str]]:
    select = sa.select(alert_deliveries).where(alert_deliveries.c.ended == "").order_by(alert_deliveries.c.created)
    with database_of(config).read() as connection:
        return [(row.receiver, row.document["state"]) for row in connection.execute(select)]


def due(config: Config) -> None:
    """Let what is tried again later be due now."""
    with database_of(config).change() as connection:
        connection.execute(sa.update(alert_deliveries).values(due=""))


def test_raised_once_and_resolved_once_it_has_been_fine_for_a_while(config: Config) -> None:
    told = [judge(config, minute, *([SLOW] if minute < 4 else [])) for minute in range(12)]
    assert told == [["raised"], [], [], [], [], [], [], [], ["resolved"], [], [], []]
    told = ledger.listed(config, NOW + 20 * MINUTE)
    assert told["open"] == [] and len(told["over"]) == 1


def test_what_comes_and_goes_is_one_alert(here: Config) -> None:
    flapping = [judge(here, minute, *([SLOW] if minute % 4 == 0 else [])) for minute in range(20)]
    assert [state for states in flapping for state in states] == ["raised"]


def test_what_could_not_be_judged_is_not_over(here: Config) -> None:
    judge(here, 0, SLOW)
    assert ledger.judged(here, [], {"error_rate"}, NOW + 60 * MINUTE) == []
    assert judge(here, 61) == ["resolved"]


def test_what_another_machine_alone_can_see_is_its_own_until_it_is_gone(here: Config) -> None:
    stuck = Finding("spool", "It waits.", subject="elasticsearch", place="one")
    assert judge(here, 0, stuck, place="one") == ["raised"]
    assert judge(here, 0, Finding("spool", "It waits.", subject="elasticsearch", place="two"), place="two") == [
        "raised"
    ]
    assert judge(here, 30, place="two") == ["resolved"]  # its own
    assert judge(here, 59, place="two") == []
    assert judge(here, 61, place="two") == ["resolved"]  # of one, which has said nothing for an hour


def race(config: Config, first: int, findings: list[Finding]) -> None:
    for minute in range(first, first + 6):
        judge(config, minute, *findings)


def test_processes_that_judge_the_same_raise_and_resolve_it_once(config: Config) -> None:
    for first, findings in ((0, [SLOW]), (6, [])):
        workers = [spawn.Process(target=race, args=(config, first, findings)) for _ in range(2)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(120)
        assert [worker.exitcode for worker in workers] == [0, 0]
    assert judge(config, 12) == []
    assert sorted(state for name, state in waiting(config) if name == "hook") == ["raised", "resolved"]


def test_two_replicas_in_step_raise_and_resolve_once(config: Config) -> None:
    barrier = threading.Barrier(2)

    def replica() -> None:
        for minute in range(12):
            barrier.wait(60)
            judge(config, minute, *([SLOW] if minute < 4 else []))

    threads = [threading.Thread(target=replica) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(state for name, state in waiting(config) if name == "hook") == ["raised", "resolved"]


def test_who_looks_rarely_is_not_overruled_between_two_looks(here: Config) -> None:
    rarely = here.model_copy(update={"alerts": here.alerts.model_copy(update={"every_s": 600.0})})
    told = [judge(rarely, minute, *([SLOW] if minute % 10 == 0 else [])) for minute in (0, 6, 10, 16, 20, 26, 36, 46)]
    assert told == [["raised"], [], [], [], [], [], [], ["resolved"]]


def test_alerts_of_a_time_are_those_that_were_told(here: Config) -> None:
    drift = Finding("drift", "It drifts.", subject="v1")
    made = ledger.silence(here, "drift", "", "we know", "ana", NOW, NOW + timedelta(hours=9))
    judge(here, 1, SLOW, drift)

    def told(since: float, until: float) -> list[str]:
        between = NOW + since * MINUTE, NOW + until * MINUTE
        return [row["rule"] for row in ledger.told_between(here, ("drift", "latency_p95"), *between)]

    assert told(0, 60) == ["latency_p95"] and told(2, 60) == []
    ledger.unsilence(here, made["id"], "ana", NOW + 70 * MINUTE)
    assert told(0, 60) == ["latency_p95"] and told(60, 120) == ["drift"]


def test_a_silenced_alert_is_told_to_nobody_until_the_silence_ends(config: Config) -> None:
    end = NOW + timedelta(hours=2)
    made = ledger.silence(config, "latency_p95", "", "we move the database", "ana", NOW, end)
    judge(config, 1, SLOW)
    judge(config, 2, SLOW)
    assert sorted(waiting(config)) == [("event", "silenced"), ("log", "silenced")]
    assert [row["told"] for row in ledger.listed(config, NOW)["open"]] == [""]
    ledger.unsilence(config, made["id"], "ana", NOW + 3 * MINUTE)
    assert ("hook", "raised") in waiting(config)
    with pytest.raises(ConfigError, match="goes on"):
        ledger.unsilence(config, made["id"], "ana", NOW + 4 * MINUTE)
    assert judge(config, 10) == ["resolved"]
    assert waiting(config).count(("hook", "resolved")) == 1


def test_what_began_and_ended_in_silence_is_told_to_nobody(here: Config) -> None:
    ledger.silence(here, "latency_p95", "", "we move", "ana", NOW, NOW + timedelta(hours=2))
    judge(here, 1, SLOW)
    assert judge(here, 10) == ["resolved"]
    assert "hook" not in {name for name, _ in waiting(here)}


def test_a_silence_of_one_subject_is_of_no_other(here: Config) -> None:
    ledger.silence(here, "spool", "elasticsearch", "it is moved", "ana", NOW, NOW + timedelta(hours=1))
    judge(here, 0, Finding("spool", "It waits.", subject="local"), SLOW)
    assert [name for name, state in waiting(here) if state == "raised"].count("hook") == 2


def test_a_silence_ends_by_itself(here: Config) -> None:
    ledger.silence(here, "latency_p95", "", "we move", "ana", NOW, NOW + 5 * MINUTE)
    judge(here, 1, SLOW)
    judge(here, 6, SLOW)
    assert ("hook", "raised") in waiting(here)


@pytest.mark.parametrize(("reason", "hours"), [("  ", 1), ("why", 0), ("why", -1)])
def test_a_silence_needs_a_reason_and_an_end(here: Config, reason: str, hours: float) -> None:
    with pytest.raises(ConfigError):
        ledger.silence(here, "disk", "", reason, "ana", NOW, NOW + timedelta(hours=hours))


def test_a_receiver_that_was_down_is_told_in_order(here: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "FIRST_S", 60.0)
    judge(here, 0, SLOW)
    judge(here, 9)
    hook = Told(failures=2)
    for sent in (0, 0, 2):
        assert deliver(database_of(here), hook) == sent
        assert deliver(database_of(here), hook) == 0  # not due
        due(here)
    assert [document["state"] for document in hook.documents] == ["raised", "resolved"]
    assert deliver(database_of(here), hook) == 0


def test_one_bad_receiver_stops_no_other(tmp_path: Path) -> None:
    receivers = [{**HOOK, "name": name} for name in ("bad", "good")]
    config = Config(home=tmp_path, alerts={"receivers": receivers})
    judge(config, 0, SLOW)
    good = Told("good")
    assert deliver_all(database_of(config), [Told("bad", failures=9), good]) == {"bad": 0, "good": 1}
    assert [row["error"] for row in ledger.listed(config, NOW)["deliveries"]] == ["ConnectionError: it is down"]


def test_after_a_day_it_is_given_up_and_said(here: Config) -> None:
    judge(here, 0, SLOW)
    with database_of(here).change() as connection:
        old = timestamp(datetime.now(UTC) - timedelta(hours=25))
        connection.execute(sa.update(alert_deliveries).values(created=old))
    assert deliver(database_of(here), Told(failures=1)) == 0
    listed = ledger.listed(here, datetime.now(UTC))["deliveries"]
    assert [(row["receiver"], row["outcome"]) for row in listed] == [("hook", "given_up")]


def test_whoever_is_told_of_what(tmp_path: Path) -> None:
    receivers = [{**HOOK, "severities": ["critical"]}, {**HOOK, "name": "all"}]
    config = Config(home=tmp_path, alerts={"receivers": receivers})
    judge(config, 0, SLOW, Finding("spool", "It waits."))
    names = [name for name, _ in waiting(config)]
    assert (names.count("hook"), names.count("all")) == (1, 2)


DIE = """
import os, signal, sys
from llmops.alerts import ledger, outbox
from llmops.config import Config
from llmops.state.database import database_of
sys.path.insert(0, sys.argv[4])
from test_ledger import NOW, SLOW, Told

config = Config(home=sys.argv[1], state={"url": sys.argv[2]}, alerts={"receivers": [
    {"name": "hook", "kind": "webhook", "url": "http://127.0.0.1:9/"}]})

class Dying(Told):
    def send(self, document):
        if sys.argv[3] == "sending":
            os.kill(os.getpid(), signal.SIGKILL)

ledger.judged(config, [SLOW], {"latency_p95"}, NOW)
if sys.argv[3] == "raised":
    os.kill(os.getpid(), signal.SIGKILL)
outbox.deliver(database_of(config), Dying())
"""


@pytest.mark.parametrize("when", ["raised", "sending"])
def test_killed_between_raise_and_delivery_it_is_delivered_after_a_restart(config: Config, when: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", DIE, str(config.home), config.state.url, when, str(Path(__file__).parent)],
        capture_output=True, text=True, timeout=120,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr
    hook = Told()
    if when == "sending":  # nobody else sends it meanwhile
        assert deliver(database_of(config), hook) == 0
        due(config)
    assert deliver(database_of(config), hook) == 1
    assert [document["state"] for document in hook.documents] == ["raised"]
    assert judge(config, 1, SLOW) == []


def test_two_that_deliver_at_once_tell_it_once(config: Config) -> None:
    judge(config, 0, SLOW)
    hook = Told()
    together = threading.Barrier(2)

    def deliver_together() -> None:
        together.wait(60)
        deliver(database_of(config), hook)

    threads = [threading.Thread(target=deliver_together) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(hook.documents) == 1


def test_events_tell_how_it_stands_and_are_stored_once(here: Config) -> None:
    judge(here, 0, SLOW)
    judge(here, 9)
    for _ in range(2):
        deliver(database_of(here), Events(here.events))
        with database_of(here).change() as connection:
            connection.execute(sa.update(alert_deliveries).values(ended="", due=""))
    drain(here.events, here.monitoring)
    raised, resolved = LocalStore(here.events).find(ALERT)
    assert raised["llmops.alert.id"] == resolved["llmops.alert.id"]
    assert [e["llmops.alert.state"] for e in (raised, resolved)] == ["raised", "resolved"]
    assert (raised["rule.name"], raised["llmops.alert.value"], raised["llmops.alert.bound"]) == (
        "latency_p95",
        1500,
        1000,
    )
    assert raised["llmops.alert.runbook"] == "docs/runbook.md#latency_p95"
    assert resolved["llmops.alert.resolved"] == timestamp(NOW + 9 * MINUTE)


def test_catching_up_finds_what_nobody_judged_and_only_that(tmp_path: Path) -> None:
    config = Config(home=tmp_path, alerts={"disk_free": 0})
    slow = [
        build(SERVING, {"@timestamp": timestamp(NOW + n * timedelta(seconds=1)), "http.response.status_code": 200,
                        "event.duration": int(2e9)})
        for n in range(120)
    ]  # fmt: skip
    LocalStore(config.events).send(slow)
    hour = (NOW - 30 * MINUTE, NOW + 30 * MINUTE)
    assert [(t["state"], t["rule"]) for t in catch_up(config, *hour)] == [
        ("raised", "latency_p95"), ("resolved", "latency_p95"),
    ]  # fmt: skip
    assert catch_up(config, *hour) == []
    ledger.judged(config, [], [], NOW + 90 * MINUTE)  # somebody has judged since
    assert catch_up(config, NOW + 30 * MINUTE, NOW + 90 * MINUTE) == []


def test_old_alerts_are_forgotten(here: Config) -> None:
    judge(here, 0, SLOW)
    judge(here, 9)
    judge(here, 60 * 24 * 100)
    assert ledger.listed(here, NOW, days=1000)["over"] == []
