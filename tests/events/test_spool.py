import shutil
from collections import namedtuple

import pytest

from llmops.config import Monitoring
from llmops.events.events import build_event, emit
from llmops.events.shipping import make_shipper, ship_events
from llmops.events.sinks.sink import Rejection
from llmops.events.spool import BATCH_SIZE, MAX_BATCH_CHARACTERS, Spool, SpoolFullError

from .faulty import ListSink, emit_numbers


def test_what_is_read_is_in_order_and_leaves_with_the_last_confirmation(tmp_path):
    with Spool(tmp_path) as spool:
        spool.register(["one", "two"])
        emit_numbers(tmp_path, 1, 2, 3)
        numbers, events = spool.read("one")
        assert [e["n"] for e in events] == [1, 2, 3]
        spool.ack("one", numbers[1])
        assert [e["n"] for e in spool.read("one")[1]] == [3] and spool.count_waiting() == {"one": 1, "two": 3}
        spool.ack("two", numbers[1])
        spool.register(["new"])  # gets what waits
        assert spool.count_waiting() == {"one": 1, "two": 1, "new": 1} and len(spool.read("new")[1]) == 1
        for sink in ("one", "two", "new"):
            spool.ack(sink, numbers[2])
        assert (
            set(spool.count_waiting().values()) == {0}
            and spool.find_oldest_time("two") == ""
            and spool.read("newer")[1] == []
        )


def test_a_batch_is_bounded_in_events_and_in_size(tmp_path):
    with Spool(tmp_path) as spool:
        spool.append([build_event("llmops.test", {"n": n}) for n in range(BATCH_SIZE + 3)])
        assert len(spool.read("one")[1]) == BATCH_SIZE
        spool.ack("one", BATCH_SIZE + 3)
        large = "x" * (MAX_BATCH_CHARACTERS // 3)
        spool.append([build_event("llmops.test", {"text": large}) for _ in range(5)])
        assert len(spool.read("one")[1]) == 3
        spool.ack("one", spool.read("one")[0][-1])
        spool.ack("one", spool.read("one")[0][-1])
        spool.append([build_event("llmops.test", {"text": large * 4}) for _ in range(2)])
        assert len(spool.read("one")[1]) == 1  # one that is larger than a batch goes alone


def test_a_full_disk_is_refused_before_it_is_full_and_what_was_taken_stays(tmp_path, monkeypatch):
    with Spool(tmp_path) as spool:
        emit_numbers(tmp_path, 1)
        usage = namedtuple("usage", "total used free")
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9 - 127_000_000, 127_000_000))
        with pytest.raises(SpoolFullError, match="127 MB"):
            emit(tmp_path, "llmops.test", {"n": 2})
        spool.set_bounds(0, 100)
        emit_numbers(tmp_path, 3)
        sink = ListSink()
        ship_events(tmp_path, [sink])
        assert sink.got == [1, 3]


def test_a_bound_of_size_holds_in_every_process_and_ends_with_delivery(tmp_path):
    make_shipper(tmp_path, Monitoring(spool_max_mb=1, spool_free_mb=0))
    taken = 0
    with pytest.raises(SpoolFullError, match="spool_max_mb"):
        while taken < 100:
            emit(tmp_path, "llmops.test", {"n": taken, "text": "x" * 100_000})
            taken += 1
    assert 8 <= taken <= 12
    sink = ListSink()
    ship_events(tmp_path, [sink])
    assert sink.got == list(range(taken))
    emit_numbers(tmp_path, 99)


def test_a_forgotten_sink_holds_nothing_back(tmp_path):
    gone, here = ListSink("gone"), ListSink("here")
    gone.down = True
    emit_numbers(tmp_path, 1)
    ship_events(tmp_path, [gone, here])
    with Spool(tmp_path) as spool:
        spool.ack("gone", 0, [Rejection("a", "no", {})])
        spool.unregister("gone")
        assert spool.count_waiting() == {"here": 0} and spool.read("gone")[1] == []
        assert spool.count_rejected() == {} and spool.find_sinks_in_state("failing") == {}
