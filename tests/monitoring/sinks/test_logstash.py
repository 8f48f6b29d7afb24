import json
import logging

import pytest

from llmops.config import Monitoring
from llmops.monitoring.events import build, emit_all
from llmops.monitoring.shipping import ship
from llmops.monitoring.sinks.base import BatchRefusedError, SinkError, SinkMisconfiguredError
from llmops.monitoring.sinks.configured import sinks_for
from llmops.monitoring.sinks.logstash import LogstashSink

from ..faulty import dead


def events(count=3, **fields):
    return [build("llmops.test", {"event.id": f"id{n}", "n": n, **fields}) for n in range(count)]


def test_a_batch_arrives_whole_with_the_user_of_the_environment(receiver, caplog):
    receiver.misbehave(user="shop:s€cret")
    config = Monitoring(sinks=("logstash",), logstash_url=receiver.url)
    (sink,) = sinks_for(receiver.folder, config, {"LOGSTASH_USER": "shop", "LOGSTASH_PASSWORD": "s€cret"})
    assert sink.send(events()) == []
    assert receiver.taken("logstash") == {"id0": 1, "id1": 1, "id2": 1}
    (wrong,) = sinks_for(receiver.folder, config, {"LOGSTASH_USER": "shop", "LOGSTASH_PASSWORD": "other-s€cret"})
    with caplog.at_level(logging.DEBUG), pytest.raises(SinkMisconfiguredError, match="401.*environment") as error:
        wrong.send(events())
    assert "other-s" not in str(error.value) + caplog.text
    sink.close()


@pytest.mark.parametrize(
    "faults,error",
    [({"429": 1}, SinkError), ({"500": 1}, SinkError), ({"lost": 1}, SinkError), ({"largest": 10}, BatchRefusedError)],
)
def test_what_its_answers_mean(receiver, faults, error):
    receiver.misbehave(**faults)
    with pytest.raises(error):
        LogstashSink(receiver.url).send(events())


def test_a_server_that_hangs_or_is_away_is_given_up_in_time(receiver):
    receiver.misbehave(hang=1)
    sink = LogstashSink(receiver.url, timeout_s=0.2)
    with pytest.raises(SinkError):
        sink.send(events())
    receiver.kill()
    with pytest.raises(SinkError):
        sink.send(events())
    receiver.misbehave()
    receiver.start()
    assert sink.send(events()) == []


def test_a_batch_that_is_too_large_or_poisoned_arrives_but_for_the_poison(receiver, tmp_path):
    receiver.misbehave(largest=3_000, poison=True)
    emit_all(tmp_path, "llmops.test", [{"event.id": f"id{n}", "n": n, "poison": n == 13} for n in range(100)])
    emit_all(tmp_path, "llmops.test", [{"event.id": "large", "text": "x" * 4_000}])
    shipment = ship(tmp_path, [LogstashSink(receiver.url)])["logstash"]
    assert (shipment.sent, shipment.rejected) == (101, 2)
    assert set(receiver.taken("logstash")) >= {f"id{n}" for n in range(100) if n != 13}
    assert {(event, reason.split()[2].rstrip(":")) for _, event, reason in dead(tmp_path)} == {
        ("id13", "400"),
        ("large", "413"),
    }


def test_an_answer_is_shortened_in_the_reason(receiver, tmp_path):
    receiver.misbehave(**{"500": 1})
    with pytest.raises(SinkError) as error:
        LogstashSink(receiver.url).send(events())
    assert json.dumps({"error": "busy"}) in str(error.value) and len(str(error.value)) < 400
