import sqlite3
import threading

import pytest

from llmops.config import Monitoring, load
from llmops.events.delivery import Shipment
from llmops.events.shipping import Shipper, drain_spool, resend_rejected, ship_events
from llmops.events.sinks.local import LocalStore
from llmops.events.sinks.sink import SinkError
from llmops.events.spool import BATCH_SIZE, Spool
from llmops.frame.errors import ConfigError
from tests.clock import wait_until

from .faulty import ListSink, count_waiting, emit_numbers, read_dead_letters


def read_state_changes(sink):
    return [(e["llmops.sink.name"], e["event.action"], e["event.outcome"]) for e in sink.states]


def test_events_arrive_in_order_once_and_leave_the_spool(tmp_path):
    sink, count = ListSink(), 2 * BATCH_SIZE + 3
    emit_numbers(tmp_path, *range(count))
    assert ship_events(tmp_path, [sink]) == {"list": Shipment(count)}
    assert ship_events(tmp_path, [sink]) == {"list": Shipment(0)}
    assert sink.got == list(range(count)) and sink.states == []
    with Spool(tmp_path) as spool:
        assert spool.read("another")[1] == []


def test_a_sink_that_is_down_keeps_its_events_and_stops_no_other(tmp_path):
    up, down = ListSink("up"), ListSink("down")
    down.down = True
    emit_numbers(tmp_path, 1, 2)
    done = ship_events(tmp_path, [down, up])
    assert up.got == [1, 2] and done["down"].error and not done["up"].error
    assert count_waiting(tmp_path) == {"up": 0, "down": 3}
    emit_numbers(tmp_path, 3)
    ship_events(tmp_path, [down, up])
    down.down = False
    ship_events(tmp_path, [down, up])
    assert down.got == up.got == [1, 2, 3]
    changes = [("down", "failing", "failure"), ("down", "recovered", "success")]  # one event per change, not per try
    assert read_state_changes(up) == read_state_changes(down) == changes
    assert up.states[0]["llmops.sink.waiting"] == 2 and "down" in up.states[0]["event.reason"]
    ship_events(tmp_path, [down, up])
    assert read_state_changes(down) == changes and count_waiting(tmp_path) == {"up": 0, "down": 0}


def test_what_a_sink_refuses_for_good_is_kept_with_the_reason_stops_nothing_and_is_told_once(tmp_path):
    sink, other = ListSink(), ListSink("other")
    sink.refuse = {2, 4}
    emit_numbers(tmp_path, 1, 2, 3)
    assert ship_events(tmp_path, [sink, other])["list"] == Shipment(3, 1)
    emit_numbers(tmp_path, 4)
    ship_events(tmp_path, [sink, other])
    assert sink.got == [1, 3] and other.got == [1, 2, 3, 4]
    assert read_dead_letters(tmp_path) == [("list", "id2", "no"), ("list", "id4", "no")]
    ship_events(tmp_path, [sink, other])
    assert (
        read_state_changes(other) == [("list", "refusing", "failure")] and other.states[0]["llmops.sink.rejected"] == 1
    )


def test_dead_letters_are_sent_again(tmp_path):
    sink, other = ListSink(), ListSink("other")
    sink.refuse = set(range(0, 1400, 2))
    emit_numbers(tmp_path, *range(1400))
    ship_events(tmp_path, [sink, other])
    sink.refuse, sink.spoil = {8}, {10}
    assert resend_rejected(tmp_path, [sink, other]) == {"list": Shipment(700, 2), "other": Shipment()}
    assert read_dead_letters(tmp_path) == [("list", "id10", "it is refused."), ("list", "id8", "no")]
    assert sorted(sink.got) == [n for n in range(1400) if n not in (8, 10)]
    sink.down = True
    assert resend_rejected(tmp_path, [sink])["list"].error and len(read_dead_letters(tmp_path)) == 2
    sink.down, sink.refuse, sink.spoil = False, set(), set()
    assert resend_rejected(tmp_path, [sink]) == {"list": Shipment(2)}
    assert read_dead_letters(tmp_path) == [] and sorted(sink.got) == list(range(1400))
    ship_events(tmp_path, [sink, other])
    assert read_state_changes(other) == [("list", "refusing", "failure"), ("list", "settled", "success")]


class Killed(BaseException):
    """In the place of a signal; test_chaos.py has real ones."""


def test_dying_between_the_sink_and_the_ack_loses_and_doubles_nothing(tmp_path):
    class Dying(LocalStore):
        def send(self, events):
            super().send(events)
            raise Killed

    emit_numbers(tmp_path, 1, 2, 3)
    with pytest.raises(Killed):
        ship_events(tmp_path, [Dying(tmp_path)])
    assert count_waiting(tmp_path) == {"local": 3}
    assert drain_spool(tmp_path, Monitoring())["local"].sent == 3
    assert count_waiting(tmp_path) == {"local": 0}
    assert [event["n"] for event in LocalStore(tmp_path).find("llmops.test")] == [1, 2, 3]


def test_drain_names_the_sink_that_is_down_and_serves_the_others(tmp_path):
    emit_numbers(tmp_path, 1)
    away = "http://127.0.0.1:9"
    config = Monitoring(
        sinks=("elasticsearch", "logstash", "otlp", "local"), elasticsearch_url=away, logstash_url=away, otlp_url=away
    )
    with pytest.raises(SinkError, match="elasticsearch.*logstash.*otlp"):
        drain_spool(tmp_path, config)
    assert count_waiting(tmp_path) == {"elasticsearch": 4, "logstash": 4, "otlp": 4, "local": 0}
    failing = {event["llmops.sink.name"] for event in LocalStore(tmp_path).find("llmops.sink")}
    assert failing == {"elasticsearch", "logstash", "otlp"}


@pytest.mark.parametrize("sink", ["elasticsearch", "logstash", "otlp"])
def test_a_sink_without_a_good_url_is_a_configuration_error(sink):
    for url in ("", "localhost:9200", "ftp://host", "http://", "https://user:secret@host"):
        with pytest.raises(ConfigError, match=f"{sink}_url"):
            load(None, {"monitoring": {"sinks": [sink], f"{sink}_url": url}}, {})


def test_a_sink_that_hangs_delays_no_other(tmp_path):
    asked, go_on = threading.Event(), threading.Event()

    class Hanging(ListSink):
        def send(self, events):
            asked.set()
            go_on.wait(50)
            return super().send(events)

    hanging, up = Hanging("hanging"), ListSink("up")
    emit_numbers(tmp_path, 1)
    shipper = Shipper(tmp_path, [hanging, up], period_s=0.01)
    shipper.start()
    assert asked.wait(50)
    emit_numbers(tmp_path, 2)
    wait_until(lambda: up.got == [1, 2])
    assert hanging.got == []
    go_on.set()
    shipper.stop(50)
    assert hanging.got == [1, 2]


def test_the_shipper_goes_on_after_a_defect_and_after_a_sink_was_down(tmp_path):
    class Broken(ListSink):
        def send(self, events):
            if self.asked == 0:
                self.asked += 1
                raise sqlite3.OperationalError("disk I/O error")
            return super().send(events)

    sink = Broken()
    sink.down = True
    shipper = Shipper(tmp_path, [sink], period_s=0.01, max_period_s=0.05)
    shipper.start()
    emit_numbers(tmp_path, 1)
    wait_until(lambda: sink.asked > 2)
    assert sink.got == []
    sink.down = False
    wait_until(lambda: sink.got == [1])
    emit_numbers(tmp_path, 2)
    shipper.stop(50)
    assert sink.got == [1, 2] and sink.closed


def test_a_failing_sink_is_asked_less_and_less_often(tmp_path):
    pauses = []

    class Stop(threading.Event):
        """Waits in no time, and is asked for at the twelfth pause."""

        def wait(self, timeout=None):
            pauses.append(timeout)
            return len(pauses) == 12

    sink = ListSink()
    sink.down = True
    emit_numbers(tmp_path, 1)
    shipper = Shipper(tmp_path, [sink], period_s=1, max_period_s=60)
    shipper._stop_asked = Stop()
    shipper._run(sink)
    assert pauses[0] == 1
    for failures, pause in enumerate(pauses[1:], 1):
        assert min(60, 2**failures) / 2 <= pause <= min(60, 2**failures)
