import multiprocessing
import os
import sqlite3
import time

import pytest

from llmops.config import Monitoring, load
from llmops.errors import ConfigError
from llmops.monitoring.events import emit
from llmops.monitoring.sinks.base import Rejection, SinkError
from llmops.monitoring.sinks.local import LocalStore
from llmops.monitoring.spool import Shipper, Spool, drain, ship


class ListSink:
    """Keeps what it gets; can be down, refuse events, or fail after having stored."""

    def __init__(self, name="list"):
        self.name, self.got, self.down, self.refuse, self.forgetful = name, [], False, set(), False
        self.closed = False

    def send(self, events):
        if self.down:
            raise SinkError("it is down.")
        refused = [Rejection(e["event.id"], "no", e) for e in events if e.get("n") in self.refuse]
        self.got += [e["n"] for e in events if e.get("n") not in self.refuse]
        if self.forgetful:
            raise SinkError("the answer was lost.")
        return refused

    def close(self):
        self.closed = True


def put(folder, *numbers):
    for n in numbers:
        emit(folder, "llmops.test", {"n": n})


def waits(folder):
    with Spool(folder) as spool:
        return spool.waiting()


def test_events_arrive_in_order_once_and_leave_the_spool(tmp_path):
    sink = ListSink()
    put(tmp_path, 1, 2, 3)
    assert ship(tmp_path, [sink])["list"].sent == 3
    assert ship(tmp_path, [sink])["list"].sent == 0
    assert sink.got == [1, 2, 3]
    with Spool(tmp_path) as spool:
        assert spool.read("another")[1] == []


def test_more_than_a_batch_arrives(tmp_path):
    sink = ListSink()
    with Spool(tmp_path) as spool:
        spool.append([{"n": n, "event.id": str(n)} for n in range(1203)])
    assert ship(tmp_path, [sink])["list"].sent == 1203
    assert sink.got == list(range(1203))


def test_a_sink_that_is_down_keeps_its_events_and_stops_no_other(tmp_path):
    up, down = ListSink("up"), ListSink("down")
    down.down = True
    put(tmp_path, 1, 2)
    done = ship(tmp_path, [down, up])
    assert up.got == [1, 2] and done["down"].error and not done["up"].error
    assert waits(tmp_path) == {"up": 0, "down": 2}
    put(tmp_path, 3)
    down.down = False
    ship(tmp_path, [down, up])
    assert down.got == up.got == [1, 2, 3]
    assert waits(tmp_path) == {"up": 0, "down": 0}


def test_a_confirmation_that_is_lost_means_twice_not_never(tmp_path):
    sink = ListSink()
    sink.forgetful = True
    put(tmp_path, 1, 2)
    ship(tmp_path, [sink])
    sink.forgetful = False
    ship(tmp_path, [sink])
    assert sink.got == [1, 2, 1, 2]


def test_a_process_without_a_sink_does_not_drop_its_events(tmp_path):
    elsewhere, here = ListSink("elsewhere"), ListSink("here")
    ship(tmp_path, [elsewhere])
    put(tmp_path, 1)
    ship(tmp_path, [here])
    ship(tmp_path, [elsewhere])
    assert elsewhere.got == here.got == [1]


def test_a_forgotten_sink_holds_nothing_back(tmp_path):
    gone, here = ListSink("gone"), ListSink("here")
    ship(tmp_path, [gone, here])
    put(tmp_path, 1)
    with Spool(tmp_path) as spool:
        spool.forget("gone")
    ship(tmp_path, [here])
    with Spool(tmp_path) as spool:
        assert spool.read("gone")[1] == []


def test_what_a_sink_refuses_for_good_is_kept_with_the_reason_and_stops_nothing(tmp_path):
    sink = ListSink()
    sink.refuse = {2}
    put(tmp_path, 1, 2, 3)
    shipment = ship(tmp_path, [sink])["list"]
    assert (shipment.sent, shipment.rejected, sink.got) == (3, 1, [1, 3])
    with Spool(tmp_path) as spool:
        ((name, rejection),) = spool.rejected()
    assert (name, rejection.reason, rejection.document["n"]) == ("list", "no", 2)


def _die_before_ack(folder):
    class Dying(LocalStore):
        def send(self, events):
            super().send(events)
            os._exit(9)

    ship(folder, [Dying(folder)])


def test_dying_between_the_sink_and_the_ack_loses_and_doubles_nothing(tmp_path):
    put(tmp_path, 1, 2, 3)
    worker = multiprocessing.get_context("fork").Process(target=_die_before_ack, args=(tmp_path,))
    worker.start()
    worker.join()
    assert worker.exitcode == 9
    assert waits(tmp_path) == {"local": 3}
    ship(tmp_path, [LocalStore(tmp_path)])
    assert waits(tmp_path) == {"local": 0}
    assert [event["n"] for event in LocalStore(tmp_path).find("llmops.test")] == [1, 2, 3]


def test_drain_brings_events_to_the_local_store(tmp_path):
    put(tmp_path, 1)
    assert drain(tmp_path, Monitoring())["local"].sent == 1
    assert drain(tmp_path / "empty", Monitoring())["local"].sent == 0


def test_drain_names_the_sink_that_is_down_and_serves_the_others(tmp_path):
    put(tmp_path, 1)
    config = Monitoring(sinks=("elasticsearch", "local"), elasticsearch_url="http://127.0.0.1:9")
    with pytest.raises(SinkError, match="elasticsearch"):
        drain(tmp_path, config)
    assert waits(tmp_path) == {"elasticsearch": 1, "local": 0}


def test_elasticsearch_without_a_url_is_a_configuration_error():
    with pytest.raises(ConfigError, match="elasticsearch_url"):
        load(None, {"monitoring": {"sinks": ["elasticsearch"]}}, {})


def until(condition, seconds=5.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


def test_the_shipper_goes_on_after_a_sink_was_down(tmp_path):
    sink = ListSink()
    sink.down = True
    shipper = Shipper(tmp_path, [sink], period_s=0.01, longest_s=0.05)
    shipper.start()
    put(tmp_path, 1)
    time.sleep(0.1)
    assert sink.got == []
    sink.down = False
    until(lambda: sink.got == [1])
    put(tmp_path, 2)
    shipper.stop()
    assert sink.got == [1, 2] and sink.closed


def test_the_shipper_outlives_a_defect(tmp_path):
    class Broken(ListSink):
        def send(self, events):
            if len(self.got) == 0:
                self.got.append("broken")
                raise sqlite3.OperationalError("disk I/O error")
            return super().send(events)

    sink = Broken()
    shipper = Shipper(tmp_path, [sink], period_s=0.01)
    shipper.start()
    put(tmp_path, 1)
    until(lambda: sink.got == ["broken", 1])
    shipper.stop()


def test_a_failing_sink_is_asked_less_and_less_often(tmp_path):
    class Counting(ListSink):
        asked = 0

        def send(self, events):
            self.asked += 1
            raise SinkError("it is down.")

    sink = Counting()
    put(tmp_path, 1)
    shipper = Shipper(tmp_path, [sink], period_s=0.01)
    shipper.start()
    time.sleep(0.6)
    shipper.stop()
    assert 2 <= sink.asked <= 12
