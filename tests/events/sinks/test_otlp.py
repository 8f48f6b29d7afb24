"""The OTLP sink against a real collector, and against one that misbehaves."""

import json

import pytest

from llmops.config import Monitoring
from llmops.events.events import build_event, emit_all
from llmops.events.shipping import ship_events
from llmops.events.sinks.factory import make_sinks
from llmops.events.sinks.otlp import OtlpSink
from llmops.events.spool import BATCH_SIZE
from llmops.frame.errors import ConfigError
from tests.clock import wait_until

from ..faulty import read_dead_letters


def parse_attribute(value):
    """A value of OTLP's JSON as Python has it."""
    ((kind, inner),) = value.items() or [("nothing", None)]
    if kind == "arrayValue":
        return [parse_attribute(part) for part in inner.get("values", [])]
    if kind == "kvlistValue":
        return {pair["key"]: parse_attribute(pair["value"]) for pair in inner.get("values", [])}
    return int(inner) if kind == "intValue" else inner


def wait_for_records(path, count):
    """The records that the collector has written, once there are so many, and what they are of."""

    def written():
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        resources = [resource for line in lines for resource in line["resourceLogs"]]
        records = [r for resource in resources for scope in resource["scopeLogs"] for r in scope["logRecords"]]
        return (resources, records) if len(records) >= count else None

    return wait_until(written, f"{count} records")


def test_a_real_collector_gets_the_fields_as_they_are(collector, tmp_path):
    url, path = collector
    fields = {"@timestamp": "2026-01-31T12:00:00.123Z", "event.outcome": "failure", "message": "Grüße"}
    fields |= {"n": 2**53 + 1, "share": 0.25, "yes": True, "nothing": None, "names": ["a", "b"]}
    fields |= {"object": {"a": [1, None, {"b": 2**70}]}}
    emit_all(tmp_path, "llmops.test", [fields])
    emit_all(tmp_path, "llmops.other", [{"event.outcome": "success"}])
    assert ship_events(tmp_path, [OtlpSink(url)])["otlp"].sent == 2
    (resource,), (record, other) = wait_for_records(path, 2)
    attributes = {pair["key"]: parse_attribute(pair["value"]) for pair in record["attributes"]}
    assert attributes["n"] == 2**53 + 1 and attributes["share"] == 0.25 and attributes["yes"] is True
    assert attributes["names"] == ["a", "b"] and "nothing" not in attributes and "@timestamp" not in attributes
    assert attributes["object"]["a"][0] == 1 and attributes["object"]["a"][2] == {"b": str(2**70)}
    assert attributes["event.dataset"] == "llmops.test" and attributes["event.id"]
    assert (record["timeUnixNano"], record["severityText"]) == ("1769860800123000000", "ERROR")
    assert record["body"] == {"stringValue": "Grüße"}
    assert other["severityText"] == "INFO" and "traceId" not in record or not record["traceId"]
    named = {pair["key"]: parse_attribute(pair["value"]) for pair in resource["resource"]["attributes"]}
    assert named["service.name"] == "llmops"
    emit_all(tmp_path, "llmops.test", [{"n": n} for n in range(BATCH_SIZE + 3)])
    assert ship_events(tmp_path, [OtlpSink(url)])["otlp"].sent == BATCH_SIZE + 3
    assert len(wait_for_records(path, BATCH_SIZE + 5)[1]) == BATCH_SIZE + 5


def test_what_a_collector_takes_in_part_is_told_apart(receiver, tmp_path):
    receiver.misbehave(poison=True)
    emit_all(tmp_path, "llmops.test", [{"event.id": f"id{n}", "n": n, "poison": n in (13, 14)} for n in range(100)])
    shipment = ship_events(tmp_path, [OtlpSink(receiver.url)])["otlp"]
    assert (shipment.sent, shipment.rejected) == (100, 2)
    assert set(receiver.taken["otlp"]) >= {f"id{n}" for n in range(100) if n not in (13, 14)}
    assert [event for _, event, _ in read_dead_letters(tmp_path)] == [
        "id13",
        "id14",
    ] and "not these" in read_dead_letters(tmp_path)[0][2]


def test_headers_come_from_the_environment(receiver, tmp_path):
    config = Monitoring(sinks=("otlp",), otlp_url=f"{receiver.url}/")
    (sink,) = make_sinks(tmp_path, config, {"OTEL_EXPORTER_OTLP_HEADERS": "Authorization=Bearer%20abc, x=1"})
    sink.send([build_event("llmops.test", {})])
    assert receiver.requests == [{"sink": "otlp", "authorization": "Bearer abc", "path": "/v1/logs"}]
    with pytest.raises(ConfigError, match="OTEL_EXPORTER_OTLP_HEADERS") as error:
        make_sinks(tmp_path, config, {"OTEL_EXPORTER_OTLP_HEADERS": "secret"})
    assert "secret" not in str(error.value)
