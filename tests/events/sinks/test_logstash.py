import json
import logging
import socket

import pytest

from llmops.config import Monitoring
from llmops.events.events import build, emit_all
from llmops.events.shipping import ship
from llmops.events.sinks.base import BatchRefusedError, SinkError
from llmops.events.sinks.configured import sinks_for
from llmops.events.sinks.logstash import LogstashSink

from ..faulty import dead


def events(count=3, **fields):
    return [build("llmops.test", {"event.id": f"id{n}", "n": n, **fields}) for n in range(count)]


def test_a_batch_arrives_whole_with_the_user_of_the_environment(receiver, tmp_path, caplog):
    receiver.misbehave(user="shop:s€cret")
    config = Monitoring(sinks=("logstash",), logstash_url=receiver.url)
    (sink,) = sinks_for(tmp_path, config, {"LOGSTASH_USER": "shop", "LOGSTASH_PASSWORD": "s€cret"})
    assert sink.send(events()) == []
    assert receiver.taken["logstash"] == {"id0": 1, "id1": 1, "id2": 1}
    (wrong,) = sinks_for(tmp_path, config, {"LOGSTASH_USER": "shop", "LOGSTASH_PASSWORD": "other-s€cret"})
    with caplog.at_level(logging.DEBUG), pytest.raises(SinkError, match="401.*environment") as error:
        wrong.send(events())
    assert "other-s" not in str(error.value) + caplog.text
    sink.close()


@pytest.mark.parametrize("fault", ["429", "500", "lost", "reset"])
def test_what_is_not_confirmed_waits(receiver, fault):
    receiver.misbehave(fault)
    with pytest.raises(SinkError) as error:
        LogstashSink(receiver.url).send(events())
    assert len(str(error.value)) < 400 and (fault != "500" or json.dumps({"error": "busy"}) in str(error.value))


def test_a_server_that_hangs_or_is_away_is_given_up_in_time_and_one_that_is_back_is_sent_to(receiver):
    receiver.misbehave("hang")
    with pytest.raises(SinkError, match="timed out"):
        LogstashSink(receiver.url, timeout_s=0.1).send(events())
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))  # nobody else gets the port, and nobody listens
        with pytest.raises(SinkError, match="refused"):
            LogstashSink(f"http://127.0.0.1:{deaf.getsockname()[1]}").send(events())
    receiver.misbehave("reset", "")
    sink = LogstashSink(receiver.url, timeout_s=60)
    with pytest.raises(SinkError):
        sink.send(events())
    assert sink.send(events()) == []


def test_a_batch_that_is_too_large_or_poisoned_arrives_but_for_the_poison(receiver, tmp_path):
    receiver.misbehave(largest=3_000, poison=True)
    with pytest.raises(BatchRefusedError):
        LogstashSink(receiver.url).send(events(poison=True))
    emit_all(tmp_path, "llmops.test", [{"event.id": f"id{n}", "n": n, "poison": n == 13} for n in range(100)])
    emit_all(tmp_path, "llmops.test", [{"event.id": "large", "text": "x" * 4_000}])
    shipment = ship(tmp_path, [LogstashSink(receiver.url)])["logstash"]
    assert (shipment.sent, shipment.rejected) == (101, 2)
    assert set(receiver.taken["logstash"]) >= {f"id{n}" for n in range(100) if n != 13}
    assert {(event, reason.split()[2].rstrip(":")) for _, event, reason in dead(tmp_path)} == {
        ("id13", "400"),
        ("large", "413"),
    }
