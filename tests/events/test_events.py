import json
import math
import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone

import pytest

from llmops.events.events import build_event, emit, format_timestamp
from llmops.events.shipping import ship_events
from llmops.events.sinks.local import LocalStore
from llmops.events.spool import Spool


def read_waiting(folder):
    with Spool(folder) as spool:
        return spool.read("anyone", limit=100_000)[1]


def test_an_event_is_one_flat_document_of_its_dataset(tmp_path):
    event_id = emit(tmp_path, "llmops.test", {"event.action": "x", "llmops.n": 3, "event.dataset": "llmops.admin"})
    (event,) = read_waiting(tmp_path)
    assert (event["event.id"], event["event.dataset"], event["service.name"]) == (event_id, "llmops.test", "llmops")
    assert (event["event.action"], event["llmops.n"]) == ("x", 3)
    assert abs(datetime.fromisoformat(event["@timestamp"]) - datetime.now(UTC)) < timedelta(minutes=1)


def test_what_json_cannot_hold_does_not_lose_the_event():
    event = build_event(
        "x", {"a": math.nan, "b": {"c": [math.inf, 1.5]}, "d": datetime(2026, 1, 1), "e": (1, 2), "f": {3: 4}}
    )
    assert event["a"] is None
    assert event["b"] == {"c": [None, 1.5]}
    assert event["e"] == [1, 2] and event["f"] == {"3": 4}
    json.dumps(event, allow_nan=False)


def test_timestamps_sort_as_text_whatever_their_zone():
    moments = [datetime(2026, 1, 1, 12, tzinfo=UTC), datetime(2026, 1, 1, 12, 30, tzinfo=timezone(timedelta(hours=2)))]
    assert format_timestamp(moments[1]) < format_timestamp(moments[0])
    assert format_timestamp(datetime(2026, 1, 1, tzinfo=UTC)) == "2026-01-01T00:00:00.000Z"
    with pytest.raises(ValueError):
        format_timestamp(datetime(2026, 1, 1))


EMIT = """
import itertools, sys
from pathlib import Path
from llmops.events.events import emit
count = int(sys.argv[2])
sys.stdin.readline()
for _ in range(count) if count else itertools.count():
    print(emit(Path(sys.argv[1]), "llmops.test", {}), flush=True)
"""


def start_emitting(folder, count):
    """A process that emits so many events (0: until it is killed) once it gets a line, and prints their ids."""
    command = [sys.executable, "-c", EMIT, str(folder), str(count)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_processes_that_start_the_spool_at_once_lose_nothing(tmp_path):
    folder = tmp_path / "new"
    workers = [start_emitting(folder, 15) for _ in range(3)]
    for worker in workers:
        worker.stdin.write("\n")
        worker.stdin.flush()
    emitted = [worker.communicate(timeout=50)[0].split() for worker in workers]
    assert [worker.returncode for worker in workers] == [0] * 3
    assert sorted(sum(emitted, [])) == sorted(event["event.id"] for event in read_waiting(folder))


def test_what_was_acknowledged_survives_a_kill(tmp_path):
    with start_emitting(tmp_path, 0) as worker:
        worker.stdin.write("\n")
        worker.stdin.flush()
        acknowledged = {worker.stdout.readline().strip() for _ in range(5)}
        worker.kill()
        acknowledged |= set(worker.stdout.read().split())
    assert len(acknowledged) >= 5 and acknowledged <= {event["event.id"] for event in read_waiting(tmp_path)}
    ship_events(tmp_path, [LocalStore(tmp_path)])
    assert acknowledged <= {event["event.id"] for event in LocalStore(tmp_path).find("llmops.test")}
