"""One event that cannot be taken stops no other, however a sink says that it cannot; a sink that is down loses none."""

from llmops.monitoring import delivery as deliveries
from llmops.monitoring.delivery import Delivery
from llmops.monitoring.sinks.base import SinkError, SinkMisconfiguredError
from llmops.monitoring.spool import BATCH, Spool

from .faulty import ListSink, dead, put, waits


def tries(folder, delivery, most=30):
    """Try until nothing waits; returns how often."""
    with Spool(folder) as spool:
        spool.register([delivery.sink.name])
        for turn in range(most):
            if not delivery.ship(spool).error:
                return turn + 1
    return most


def test_a_batch_that_is_refused_is_sent_in_parts(tmp_path):
    sink = ListSink()
    sink.spoil, sink.most = {3, 17}, 8
    put(tmp_path, *range(40))
    assert tries(tmp_path, Delivery(sink)) == 1
    assert sink.got == [n for n in range(40) if n not in (3, 17)]
    assert dead(tmp_path) == [("list", "id17", "it is refused."), ("list", "id3", "it is refused.")]
    assert waits(tmp_path) == {"list": 0}


def test_parts_that_were_taken_are_not_sent_again(tmp_path):
    sink = ListSink()
    sink.most, sink.crash = 10, {25}
    put(tmp_path, *range(40))
    with Spool(tmp_path) as spool:
        shipment = Delivery(sink).ship(spool)
    assert shipment.sent == len(sink.got) == 20 and shipment.error


def test_an_event_over_which_the_sink_fails_becomes_a_dead_letter_and_the_rest_arrives(tmp_path):
    sink = ListSink()
    sink.crash = {5}
    put(tmp_path, *range(30))
    assert tries(tmp_path, Delivery(sink)) < 15
    assert sorted(set(sink.got)) == [n for n in range(30) if n != 5]
    ((_, event, reason),) = dead(tmp_path)
    assert event == "id5" and "500" in reason


def test_several_in_a_row_do_too(tmp_path):
    sink = ListSink()
    sink.crash, sink.spoil = {5, 7}, {6}
    put(tmp_path, *range(30))
    tries(tmp_path, Delivery(sink))
    assert [event for _, event, _ in dead(tmp_path)] == ["id5", "id6", "id7"]


def test_a_sink_that_is_down_for_long_loses_nothing(tmp_path):
    sink = ListSink()
    sink.down = True
    put(tmp_path, *range(30))
    delivery = Delivery(sink)
    assert tries(tmp_path, delivery) == 30
    sink.down = False
    assert tries(tmp_path, delivery) == 1
    assert sink.got == list(range(30)) and dead(tmp_path) == []


def test_the_last_event_alone_is_no_proof_that_it_is_at_fault(tmp_path):
    sink = ListSink()
    sink.crash = {1}
    put(tmp_path, 1)
    assert tries(tmp_path, Delivery(sink)) == 30 and dead(tmp_path) == []


def test_what_was_refused_before_the_sink_failed_counts(tmp_path):
    sink = ListSink()
    sink.most, sink.crash, sink.refuse = 10, {25}, {3}
    put(tmp_path, *range(40))
    with Spool(tmp_path) as spool:
        shipment = Delivery(sink).ship(spool)
    assert (shipment.sent, shipment.rejected) == (20, 1) and shipment.error


def test_batches_grow_again(tmp_path):
    sink = ListSink()
    sink.down = True
    put(tmp_path, *range(1200))
    delivery = Delivery(sink)
    tries(tmp_path, delivery)
    sink.down = False
    tries(tmp_path, delivery)
    assert sink.sizes[0] == 1 and max(sink.sizes) >= BATCH // 2 and sink.got == list(range(1200))


class Asked(ListSink):
    """Counts what it is asked, and can fail by the number of the asking or by an event that waits for a template."""

    asked, fails, mend = 0, 10**9, None

    def send(self, events):
        self.asked += 1
        if self.asked > self.fails:
            raise SinkError("it answers 503.")
        if self.mend in [event.get("n") for event in events]:
            raise SinkMisconfiguredError("there is no template.")
        return super().send(events)


def patiently(folder, sink, monkeypatch):
    """One patient try, without its pauses."""
    monkeypatch.setattr(deliveries, "PAUSE_S", 0.0)
    with Spool(folder) as spool:
        spool.register([sink.name])
        return Delivery(sink).ship_patiently(spool)


def test_one_patient_try_finds_what_is_at_fault_and_brings_the_rest(tmp_path, monkeypatch):
    sink = Asked()
    sink.crash, sink.spoil = {0, 300, 302, 1199}, {301}
    put(tmp_path, *range(1203))
    shipment = patiently(tmp_path, sink, monkeypatch)
    assert (shipment.sent, shipment.rejected, shipment.error) == (1203, 5, "")
    assert sorted(set(sink.got)) == [n for n in range(1203) if n not in (0, 300, 301, 302, 1199)]
    assert sorted(event for _, event, _ in dead(tmp_path)) == ["id0", "id1199", "id300", "id301", "id302"]


def test_one_patient_try_brings_what_is_too_slow_in_batches(tmp_path, monkeypatch):
    class Slow(ListSink):
        def send(self, events):
            if len(events) > 20:
                raise SinkError("no answer in 10 s.")
            return super().send(events)

    sink = Slow()
    put(tmp_path, *range(600))
    assert patiently(tmp_path, sink, monkeypatch).error == ""
    assert sink.got == list(range(600)) and dead(tmp_path) == []


def test_a_sink_that_is_down_is_asked_ten_times_by_a_patient_try_and_loses_nothing(tmp_path, monkeypatch):
    sink = Asked()
    sink.fails = 0
    put(tmp_path, *range(700))
    assert "503" in patiently(tmp_path, sink, monkeypatch).error
    assert sink.asked == 10 and waits(tmp_path) == {"list": 700} and dead(tmp_path) == []
    sink.fails = 10**9
    shipment = patiently(tmp_path, sink, monkeypatch)
    assert shipment.sent == 700 and not shipment.error and sink.asked == 12


def test_a_patient_try_ends(tmp_path, monkeypatch):
    class Wavering(ListSink):
        def send(self, events):
            put(tmp_path, len(self.got))  # there is always more
            if len(self.sizes) % 2:
                self.sizes.append(len(events))
                raise SinkError("it answers 503.")
            return super().send(events)

    monkeypatch.setattr(deliveries, "PATIENCE_S", 0.2)
    put(tmp_path, 1)
    assert "503" in patiently(tmp_path, Wavering(), monkeypatch).error


def test_no_event_is_at_fault_where_somebody_has_to_mend_something(tmp_path, monkeypatch):
    sink = Asked()
    sink.mend = 5
    put(tmp_path, *range(30))
    assert "template" in patiently(tmp_path, sink, monkeypatch).error
    assert sink.asked == 1
    assert tries(tmp_path, Delivery(sink)) == 30 and dead(tmp_path) == []
    sink.mend = None
    assert patiently(tmp_path, sink, monkeypatch).sent == 30
