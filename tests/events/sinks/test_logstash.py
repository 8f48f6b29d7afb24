import json
import logging
import socket

import pytest

from llmops.config import Monitoring
from llmops.events.events import build_event, emit_all
from llmops.events.shipping import ship_events
from llmops.events.sinks.factory import make_sinks
from llmops.events.sinks.logstash import LogstashSink
from llmops.events.sinks.sink import BatchRefusedError, SinkError

from ..faulty import read_dead_letters


def make_events(count=3, **fields):
    return [build_event("llmops.test", {"event.id": f"id{n}", "n": n, **fields}) for n in range(count)]


def test_a_batch_arrives_whole_with_the_user_of_the_environment(receiver, tmp_path, caplog):
    receiver.misbehave(user="shop:s€cret")
    config = Monitoring(sinks=("logstash",), logstash_url=receiver.url)
    (sink,) = make_sinks(tmp_path, config, {"LOGSTASH_USER": "shop", "LOGSTASH_PASSWORD": "s€cret"})
    assert sink.send(make_events()) == []
    assert receiver.taken["logstash"] == {"id0": 1, "id1": 1, "id2": 1}
    (wrong,) = make_sinks(tmp_path, config, {"LOGSTASH_USER": "shop", "LOGSTASH_PASSWORD": "other-s€cret"})
    with caplog.at_level(logging.DEBUG), pytest.raises(SinkError, match="401.*environment") as error:
        wrong.send(make_events())
    assert "other-s" not in str(error.value) + caplog.text
    sink.close()


@pytest.mark.parametrize("fault", ["429", "500", "lost", "reset"])
def test_what_is_not_confirmed_waits(receiver, fault):
    receiver.misbehave(fault)
    with pytest.raises(SinkError) as error:
        LogstashSink(receiver.url).send(make_events())
    assert len(str(error.value)) < 400 and (fault != "500" or json.dumps({"error": "busy"}) in str(error.value))


def test_a_server_that_hangs_or_is_away_is_given_up_in_time_and_one_that_is_back_is_sent_to(receiver):
    receiver.misbehave("hang")
    with pytest.raises(SinkError, match="timed out"):
        LogstashSink(receiver.url, timeout_s=0.1).send(make_events())
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))  # nobody else gets the port, and nobody listens
        with pytest.raises(SinkError, match="refused"):
            LogstashSink(f"http://127.0.0.1:{deaf.getsockname()[1]}").send(make_events())
    receiver.misbehave("reset", "")
    sink = LogstashSink(receiver.url, timeout_s=60)
    with pytest.raises(SinkError):
        sink.send(make_events())
    assert sink.send(make_events()) == []


def test_a_batch_that_is_too_large_or_poisoned_arrives_but_for_the_poison(receiver, tmp_path):
    receiver.misbehave(largest=3_000, poison=True)
    with pytest.raises(BatchRefusedError):
        LogstashSink(receiver.url).send(make_events(poison=True))
    emit_all(tmp_path, "llmops.test", [{"event.id": f"id{n}", "n": n, "poison": n == 13} for n in range(100)])
    emit_all(tmp_path, "llmops.test", [{"event.id": "large", "text": "x" * 4_000}])
    shipment = ship_events(tmp_path, [LogstashSink(receiver.url)])["logstash"]
    assert (shipment.sent, shipment.rejected) == (101, 2)
    assert set(receiver.taken["logstash"]) >= {f"id{n}" for n in range(100) if n != 13}
    assert {(event, reason.split()[2].rstrip(":")) for _, event, reason in read_dead_letters(tmp_path)} == {
        ("id13", "400"),
        ("large", "413"),
    }
