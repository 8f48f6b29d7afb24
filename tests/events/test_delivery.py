"""One event that cannot be taken stops no other, however a sink says that it cannot; a sink that is down loses none."""

from llmops.events.delivery import Delivery
from llmops.events.spool import BATCH_SIZE, Spool

from .faulty import ListSink, count_waiting, emit_numbers, read_dead_letters


def count_tries(folder, delivery, most=30):
    """Try until nothing waits; returns how often."""
    with Spool(folder) as spool:
        spool.register([delivery.sink.name])
        for turn in range(most):
            if not delivery.ship(spool).error:
                return turn + 1
    return most


def test_parts_that_were_taken_or_refused_before_the_sink_failed_are_not_sent_again(tmp_path):
    sink = ListSink()
    sink.most, sink.crash, sink.refuse, sink.spoil = 10, {25}, {3}, {17}
    emit_numbers(tmp_path, *range(40))
    with Spool(tmp_path) as spool:
        shipment = Delivery(sink).ship(spool)
    assert (shipment.sent, shipment.rejected) == (20, 2) and shipment.error
    assert sink.got == [n for n in range(20) if n not in (3, 17)]
    assert count_waiting(tmp_path) == {"list": 20}
    sink.crash = set()
    assert count_tries(tmp_path, Delivery(sink)) == 1 and sink.got == [n for n in range(40) if n not in (3, 17)]


def test_events_over_which_the_sink_fails_become_dead_letters_and_the_rest_arrives(tmp_path):
    sink = ListSink()
    sink.crash, sink.spoil, sink.most = {5, 7}, {3, 6}, 8
    emit_numbers(tmp_path, *range(30))
    assert count_tries(tmp_path, Delivery(sink)) < 15
    assert sorted(set(sink.got)) == [n for n in range(30) if n not in (3, 5, 6, 7)]
    letters = {event: why for _, event, why in read_dead_letters(tmp_path)}
    assert letters.keys() == {"id3", "id5", "id6", "id7"} and "500" in letters["id5"]
    assert letters["id3"] == letters["id6"] == "it is refused."


def test_a_sink_that_is_down_for_long_loses_nothing_and_batches_grow_again(tmp_path):
    sink = ListSink()
    sink.down = True
    emit_numbers(tmp_path, *range(1200))
    delivery = Delivery(sink)
    assert count_tries(tmp_path, delivery) == 30
    sink.down = False
    assert count_tries(tmp_path, delivery) == 1
    assert sink.sizes[0] == 1 and max(sink.sizes) >= BATCH_SIZE // 2 and sink.got == list(range(1200))
    assert read_dead_letters(tmp_path) == []


def test_the_last_event_alone_is_no_proof_that_it_is_at_fault(tmp_path):
    sink = ListSink()
    sink.crash = {1}
    emit_numbers(tmp_path, 1)
    assert count_tries(tmp_path, Delivery(sink)) == 30 and read_dead_letters(tmp_path) == []
