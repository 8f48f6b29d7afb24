import multiprocessing
import os
import sqlite3
import threading
import time

import pytest

from llmops.config import Monitoring, load
from llmops.errors import ConfigError
from llmops.monitoring import delivery as deliveries
from llmops.monitoring import shipping
from llmops.monitoring.delivery import Shipment
from llmops.monitoring.events import build
from llmops.monitoring.shipping import Shipper, drain, retry, ship, shipper_for
from llmops.monitoring.sinks.base import SinkError
from llmops.monitoring.sinks.local import LocalStore
from llmops.monitoring.spool import Spool, SpoolFullError

from .faulty import ListSink, dead, put, waits


def told(sink):
    """What events about sinks say."""
    return [(e["llmops.sink.name"], e["event.action"], e["event.outcome"]) for e in sink.told]


def test_events_arrive_in_order_once_and_leave_the_spool(tmp_path):
    sink = ListSink()
    put(tmp_path, 1, 2, 3)
    assert ship(tmp_path, [sink]) == {"list": Shipment(3)}
    assert ship(tmp_path, [sink]) == {"list": Shipment(0)}
    assert sink.got == [1, 2, 3] and sink.told == []
    with Spool(tmp_path) as spool:
        assert spool.read("another")[1] == []


def test_more_than_a_batch_arrives(tmp_path):
    sink = ListSink()
    put(tmp_path, *range(1203))
    assert ship(tmp_path, [sink])["list"].sent == 1203
    assert sink.got == list(range(1203))


def test_a_sink_that_is_down_keeps_its_events_and_stops_no_other(tmp_path):
    up, down = ListSink("up"), ListSink("down")
    down.down = True
    put(tmp_path, 1, 2)
    done = ship(tmp_path, [down, up])
    assert up.got == [1, 2] and done["down"].error and not done["up"].error
    assert waits(tmp_path) == {"up": 0, "down": 3}
    put(tmp_path, 3)
    ship(tmp_path, [down, up])
    down.down = False
    ship(tmp_path, [down, up])
    assert down.got == up.got == [1, 2, 3]
    changes = [("down", "failing", "failure"), ("down", "recovered", "success")]  # one event per change, not per try
    assert told(up) == told(down) == changes
    assert up.told[0]["llmops.sink.waiting"] == 2 and "down" in up.told[0]["event.reason"]
    ship(tmp_path, [down, up])
    assert told(down) == changes and waits(tmp_path) == {"up": 0, "down": 0}


def test_a_sink_that_hangs_delays_no_other(tmp_path):
    asked, go_on = threading.Event(), threading.Event()

    class Hanging(ListSink):
        def send(self, events):
            asked.set()
            go_on.wait(10)
            return super().send(events)

    hanging, up = Hanging("hanging"), ListSink("up")
    put(tmp_path, 1)
    shipper = Shipper(tmp_path, [hanging, up], period_s=0.01)
    shipper.start()
    assert asked.wait(5)
    put(tmp_path, 2)
    until(lambda: up.got == [1, 2])
    assert hanging.got == []
    go_on.set()
    shipper.stop()
    assert hanging.got == [1, 2]


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


def test_what_a_sink_refuses_for_good_is_kept_with_the_reason_stops_nothing_and_is_told_once(tmp_path):
    sink, other = ListSink(), ListSink("other")
    sink.refuse = {2, 4}
    put(tmp_path, 1, 2, 3)
    assert ship(tmp_path, [sink, other])["list"] == Shipment(3, 1)
    put(tmp_path, 4)
    ship(tmp_path, [sink, other])
    assert sink.got == [1, 3] and other.got == [1, 2, 3, 4]
    assert dead(tmp_path) == [("list", "id2", "no"), ("list", "id4", "no")]
    ship(tmp_path, [sink, other])
    assert told(other) == [("list", "refusing", "failure")] and other.told[0]["llmops.sink.rejected"] == 1


def test_dead_letters_are_sent_again(tmp_path):
    sink, other = ListSink(), ListSink("other")
    sink.refuse = set(range(0, 1400, 2))
    put(tmp_path, *range(1400))
    ship(tmp_path, [sink, other])
    sink.refuse, sink.spoil = {8}, {10}
    assert retry(tmp_path, [sink, other]) == {"list": Shipment(700, 2), "other": Shipment()}
    assert dead(tmp_path) == [("list", "id10", "it is refused."), ("list", "id8", "no")]
    assert sorted(sink.got) == [n for n in range(1400) if n not in (8, 10)]
    sink.down = True
    assert retry(tmp_path, [sink])["list"].error and len(dead(tmp_path)) == 2
    sink.down, sink.refuse, sink.spoil = False, set(), set()
    assert retry(tmp_path, [sink]) == {"list": Shipment(2)}
    assert dead(tmp_path) == [] and sorted(sink.got) == list(range(1400))
    ship(tmp_path, [sink, other])
    assert told(other) == [("list", "refusing", "failure"), ("list", "settled", "success")]


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
    away = "http://127.0.0.1:9"
    config = Monitoring(
        sinks=("elasticsearch", "logstash", "otlp", "local"), elasticsearch_url=away, logstash_url=away, otlp_url=away
    )
    with pytest.raises(SinkError, match="elasticsearch.*logstash.*otlp"):
        drain(tmp_path, config)
    assert waits(tmp_path) == {"elasticsearch": 4, "logstash": 4, "otlp": 4, "local": 0}
    failing = {event["llmops.sink.name"] for event in LocalStore(tmp_path).find("llmops.sink")}
    assert failing == {"elasticsearch", "logstash", "otlp"}


def test_drain_alone_makes_a_dead_letter_of_the_event_over_which_a_sink_fails(tmp_path, monkeypatch):
    sink, other = ListSink(), ListSink("other")
    sink.crash = {50}
    monkeypatch.setattr(shipping, "sinks_for", lambda *_: [sink, other])
    monkeypatch.setattr(deliveries, "PAUSE_S", 0.0)
    put(tmp_path, *range(600))
    assert drain(tmp_path, Monitoring())["list"] == Shipment(600, 1)
    ((_, event, reason),) = dead(tmp_path)
    assert event == "id50" and "500" in reason and waits(tmp_path) == {"list": 0, "other": 0}
    assert told(other) == [("list", "refusing", "failure")]


@pytest.mark.parametrize("sink", ["elasticsearch", "logstash", "otlp"])
def test_a_sink_without_a_good_url_is_a_configuration_error(sink):
    with pytest.raises(ConfigError, match=f"{sink}_url"):
        load(None, {"monitoring": {"sinks": [sink]}}, {})
    for url in ("localhost:9200", "ftp://host", "http://", "https://user:secret@host"):
        with pytest.raises(ConfigError, match=f"{sink}_url") as error:
            load(None, {"monitoring": {"sinks": [sink], f"{sink}_url": url}}, {})
        assert "https://" in str(error.value) or "environment" in str(error.value)


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


def test_the_bounds_of_the_configuration_hold_for_all_that_append(tmp_path):
    shipper_for(tmp_path, Monitoring(spool_max_mb=1, spool_free_mb=0))
    with Spool(tmp_path) as spool, pytest.raises(SpoolFullError):
        for n in range(20):
            spool.append([build("llmops.test", {"n": n, "text": "x" * 100_000})])


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
    assert 2 <= sink.asked <= 24  # a try with one event asks for the next one, too
