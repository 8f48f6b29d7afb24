import sqlite3

import pytest

from llmops.events.events import build_event
from llmops.events.sinks.local import LocalStore
from llmops.events.sinks.sink import SinkError


def test_the_local_store_finds_by_dataset_and_time(tmp_path):
    store = LocalStore(tmp_path)
    events = [
        build_event("a" if n % 2 else "b", {"@timestamp": f"2026-01-01T00:00:0{n}.000Z", "n.x": n}) for n in range(6)
    ]
    store.send(events)
    store.send(events[:3])
    assert [e["n.x"] for e in store.find("a")] == [1, 3, 5]
    assert [e["n.x"] for e in store.find("a", limit=2, newest_first=True)] == [5, 3]
    assert [e["n.x"] for e in store.find("a", "2026-01-01T00:00:01.000Z", "2026-01-01T00:00:05.000Z")] == [1, 3]
    assert store.select("b", ["n.x", "missing"]) == [(0, None), (2, None), (4, None)]


def test_a_local_store_that_cannot_be_written_is_a_sink_that_is_down(tmp_path):
    store = LocalStore(tmp_path)
    store.send([])
    with sqlite3.connect(tmp_path / "store.db") as db:
        db.execute("DROP TABLE events")
    with pytest.raises(SinkError):
        store.send([build_event("x", {})])
