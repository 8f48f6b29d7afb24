"""`llmops events`, on a home whose sink is away or refuses."""

import json
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from llmops.cli import main
from llmops.events.events import emit
from llmops.events.sinks.local import LocalStore
from llmops.events.sinks.sink import Rejection
from llmops.events.spool import Spool
from tests.clock import wait_until


@pytest.fixture
def events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The events folder of a home with a sink that is away and one that is gone; one event waits, one is dead."""
    monkeypatch.setenv("LLMOPS_HOME", str(tmp_path))
    monkeypatch.setenv("LLMOPS_MONITORING__SINKS", '["local", "logstash"]')
    monkeypatch.setenv("LLMOPS_MONITORING__LOGSTASH_URL", "http://127.0.0.1:9")
    folder = tmp_path / "events"
    with Spool(folder) as spool:
        spool.register(["local", "logstash", "gone"])
        emit(folder, "llmops.test", {"@timestamp": "2026-01-31T00:00:00.000Z"})
        dead = {"event.id": "a", "event.dataset": "llmops.test", "@timestamp": "2026-01-30T00:00:00.000Z"}
        spool.ack("local", 1, [Rejection("a", "no number", dead)])
        spool.ack("logstash", 0, [Rejection("b", "too large", {**dead, "event.id": "b"})])
    return folder


def test_it_shows_what_waits_and_what_is_dead(events: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["events", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    rows = {row["sink"]: (row["waiting"], row["dead"], row["configured"]) for row in told["sinks"]}
    assert rows == {"local": (0, 1, True), "logstash": (1, 1, True), "gone": (1, 0, False)} and told["bytes"] > 0
    assert main(["events", "status", "logstash"]) == 0
    assert capsys.readouterr().out.count("\n") == 1
    assert main(["events", "dead", "logstash", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["event"]["event.id"] == "b"
    assert main(["events", "dead"]) == 0
    assert "no number" in capsys.readouterr().out


def test_it_sends_again_what_can_be_and_says_what_cannot(events: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["events", "retry", "local"]) == 0
    assert [event["event.id"] for event in LocalStore(events).find("llmops.test")] == ["a"]
    assert main(["events", "retry", "--json"]) == 75  # may be gone at the next try
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["logstash"]["error"]
    with Spool(events) as spool:
        assert spool.count_rejected() == {"logstash": 1}
    assert main(["events", "status"]) == 0
    assert main(["events", "retry", "nowhere"]) == 1


def test_only_a_sink_that_is_gone_is_forgotten(events: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["events", "forget", "logstash"]) == 1 and main(["events", "forget"]) == 1
    assert main(["events", "forget", "gone"]) == 0
    with Spool(events) as spool:
        assert spool.count_waiting() == {"local": 0, "logstash": 1}


def test_a_process_of_its_own_ships_until_it_is_told_to_stop(events: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMOPS_MONITORING__SINKS", '["local"]')
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def another_process() -> None:
        try:
            emit(events, "llmops.test", {"event.id": "c"})
            wait_until(lambda: [e["event.id"] for e in LocalStore(events).find("llmops.test")] == ["c"])
        finally:
            signal.pthread_kill(main_thread, signal.SIGTERM)

    main_thread = threading.get_ident()
    try:
        with ThreadPoolExecutor(1) as other:
            shipped = other.submit(another_process)
            assert main(["events", "ship"]) == 0
            shipped.result()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert main(["events", "ship", "local"]) == 1
