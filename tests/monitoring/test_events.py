import json
import math
import multiprocessing
import os
import signal
import time
from datetime import UTC, datetime, timedelta, timezone

import pytest

from llmops.monitoring.events import build, emit, timestamp
from llmops.monitoring.fields import LONGEST_KEYWORD, LONGEST_TEXT
from llmops.monitoring.shipping import ship
from llmops.monitoring.sinks.local import LocalStore
from llmops.monitoring.spool import Spool


def waiting(folder):
    with Spool(folder) as spool:
        return spool.read("anyone", limit=100_000)[1]


def test_an_event_is_one_flat_document(tmp_path):
    event_id = emit(tmp_path, "llmops.test", {"event.action": "x", "llmops.n": 3})
    (event,) = waiting(tmp_path)
    assert event["event.id"] == event_id
    assert event["event.dataset"] == "llmops.test"
    assert event["service.name"] == "llmops"
    assert (event["event.action"], event["llmops.n"]) == ("x", 3)
    assert abs(datetime.fromisoformat(event["@timestamp"]) - datetime.now(UTC)) < timedelta(minutes=1)


def test_no_text_of_an_event_is_longer_than_it_is_searched_or_needed():
    long = "é" * 200_000
    event = build("x", {"gen_ai.request.model": long, "error.message": long, "x": {"y": [long, "z"]}})
    assert len(event["gen_ai.request.model"]) == LONGEST_KEYWORD and event["gen_ai.request.model"].endswith("é…")
    assert len(event["x"]["y"][0]) == LONGEST_TEXT and event["x"]["y"][1] == "z"
    assert len(json.dumps(event, ensure_ascii=False)) < 3 * LONGEST_TEXT


def test_what_json_cannot_hold_does_not_lose_the_event():
    event = build(
        "x", {"a": math.nan, "b": {"c": [math.inf, 1.5]}, "d": datetime(2026, 1, 1), "e": (1, 2), "f": {3: 4}}
    )
    assert event["a"] is None
    assert event["b"] == {"c": [None, 1.5]}
    assert event["e"] == [1, 2] and event["f"] == {"3": 4}
    json.dumps(event, allow_nan=False)


def test_fields_cannot_change_the_dataset():
    assert build("llmops.test", {"event.dataset": "llmops.admin"})["event.dataset"] == "llmops.test"


def test_timestamps_sort_as_text_whatever_their_zone():
    moments = [datetime(2026, 1, 1, 12, tzinfo=UTC), datetime(2026, 1, 1, 12, 30, tzinfo=timezone(timedelta(hours=2)))]
    assert timestamp(moments[1]) < timestamp(moments[0])
    assert timestamp(datetime(2026, 1, 1, tzinfo=UTC)) == "2026-01-01T00:00:00.000Z"
    with pytest.raises(ValueError):
        timestamp(datetime(2026, 1, 1))


def _emit_many(folder, count):
    for n in range(count):
        emit(folder, "llmops.test", {"n": n})


def test_processes_that_start_the_spool_at_once_lose_nothing(tmp_path):
    folder = tmp_path / "new"
    workers = [multiprocessing.get_context("fork").Process(target=_emit_many, args=(folder, 15)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert len({event["event.id"] for event in waiting(folder)}) == 60


def _emit_and_note(folder, note):
    with open(note, "a") as handle:
        while True:
            handle.write(emit(folder, "llmops.test", {}) + "\n")
            handle.flush()


def test_what_was_acknowledged_survives_a_kill(tmp_path):
    note = tmp_path / "note"
    worker = multiprocessing.get_context("fork").Process(target=_emit_and_note, args=(tmp_path, note))
    worker.start()
    while not note.exists() or note.read_text().count("\n") < 5:
        time.sleep(0.01)
    os.kill(worker.pid, signal.SIGKILL)
    worker.join()
    acknowledged = note.read_text().splitlines()
    assert set(acknowledged) <= {event["event.id"] for event in waiting(tmp_path)}
    ship(tmp_path, [LocalStore(tmp_path)])
    assert set(acknowledged) <= {event["event.id"] for event in LocalStore(tmp_path).find("llmops.test")}
