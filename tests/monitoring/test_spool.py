import shutil
import sqlite3
from collections import namedtuple

import pytest

from llmops.monitoring.events import build, emit
from llmops.monitoring.shipping import ship
from llmops.monitoring.sinks.base import Rejection
from llmops.monitoring.spool import BATCH, BATCH_CHARACTERS, SCHEMA, Spool, SpoolFullError

from .faulty import ListSink, put


def test_what_is_read_is_in_order_and_leaves_with_the_last_confirmation(tmp_path):
    with Spool(tmp_path) as spool:
        spool.register(["one", "two"])
        put(tmp_path, 1, 2, 3)
        numbers, events = spool.read("one")
        assert [e["n"] for e in events] == [1, 2, 3]
        spool.ack("one", numbers[1])
        assert [e["n"] for e in spool.read("one")[1]] == [3] and spool.waiting() == {"one": 1, "two": 3}
        spool.ack("two", numbers[2])
        assert spool.waiting() == {"one": 1, "two": 0} and spool.oldest("two") == ""
        spool.ack("one", numbers[2])
        assert spool.waiting() == {"one": 0, "two": 0} and spool.read("new")[1] == []


def test_a_new_sink_gets_what_waits_and_its_count_is_right(tmp_path):
    with Spool(tmp_path) as spool:
        spool.register(["one"])
        put(tmp_path, 1, 2, 3)
        spool.ack("one", spool.read("one")[0][0])
        spool.register(["new"])
        assert spool.waiting() == {"one": 2, "new": 2} and len(spool.read("new")[1]) == 2


def test_a_batch_is_bounded_in_events_and_in_size(tmp_path):
    with Spool(tmp_path) as spool:
        spool.append([build("llmops.test", {"n": n}) for n in range(BATCH + 3)])
        assert len(spool.read("one")[1]) == BATCH
        spool.register(["one"])
        spool.ack("one", BATCH + 3)
        large = ["x" * 1000] * (BATCH_CHARACTERS // 3000)  # a text of its own is cut
        spool.append([build("llmops.test", {"text": large}) for _ in range(5)])
        assert len(spool.read("one")[1]) == 3
        spool.ack("one", spool.read("one")[0][-1])
        spool.ack("one", spool.read("one")[0][-1])
        spool.append([build("llmops.test", {"text": large * 4}) for _ in range(2)])
        assert len(spool.read("one")[1]) == 1  # one that is larger than a batch goes alone


def test_a_full_disk_is_refused_before_it_is_full_and_what_was_taken_stays(tmp_path, monkeypatch):
    with Spool(tmp_path) as spool:
        put(tmp_path, 1)
        usage = namedtuple("usage", "total used free")
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9 - 127_000_000, 127_000_000))
        with pytest.raises(SpoolFullError, match="127 MB"):
            emit(tmp_path, "llmops.test", {"n": 2})
        spool.bound(0, 100)
        put(tmp_path, 3)
        sink = ListSink()
        ship(tmp_path, [sink])
        assert sink.got == [1, 3]


def test_a_bound_of_size_holds_in_every_process_and_ends_with_delivery(tmp_path):
    with Spool(tmp_path) as spool:
        spool.bound(1, 0)
    taken = 0
    with pytest.raises(SpoolFullError, match="spool_max_mb"):
        while taken < 100:
            emit(tmp_path, "llmops.test", {"n": taken, "text": "x" * 100_000})
            taken += 1
    assert 8 <= taken <= 12
    sink = ListSink()
    ship(tmp_path, [sink])
    assert sink.got == list(range(taken))
    put(tmp_path, 99)


def test_a_forgotten_sink_holds_nothing_back(tmp_path):
    gone, here = ListSink("gone"), ListSink("here")
    ship(tmp_path, [gone, here])
    gone.down = True
    put(tmp_path, 1)
    ship(tmp_path, [gone, here])
    with Spool(tmp_path) as spool:
        spool.ack("gone", 0, [Rejection("a", "no", {})])
        spool.forget("gone")
        assert spool.waiting() == {"here": 0} and spool.read("gone")[1] == []
        assert spool.rejected_counts() == {} and spool.in_state("failing") == {}


def test_a_spool_of_an_earlier_version_goes_on(tmp_path):
    with sqlite3.connect(tmp_path / "spool.db") as db:
        db.executescript(SCHEMA)
        db.execute("""INSERT INTO events (document) VALUES ('{"n": 1, "event.id": "id1", "event.dataset": "x"}')""")
        db.execute("INSERT INTO rejected VALUES ('list', 'id0', 'old', '{}')")
    put(tmp_path, 2)
    sink = ListSink()
    ship(tmp_path, [sink])
    assert sink.got == [1, 2]
    with Spool(tmp_path) as spool:
        assert spool.rejected_counts() == {"list": 1}


def test_dead_letters_are_read_page_by_page(tmp_path):
    with Spool(tmp_path) as spool:
        for sink in ("a", "b"):
            spool.ack(sink, 0, [Rejection(f"{n:05}", "no", {"n": n}) for n in range(BATCH + 7)])
        assert [r.document["n"] for _, r in spool.rejected("b")] == list(range(BATCH + 7))
        assert len(list(spool.rejected())) == 2 * BATCH + 14 and list(spool.rejected("c")) == []
        spool.settle("a", ["00001"], [])
        assert spool.rejected_counts() == {"a": BATCH + 6, "b": BATCH + 7}
