"""The Elasticsearch sink against a real server, against answers that it may give, and against a receiver's faults."""

import itertools
import json
import logging

import pytest
from elastic_transport import ApiResponseMeta, HttpHeaders, Urllib3HttpNode
from elastic_transport._node._base import NodeApiResponse
from elasticsearch import Elasticsearch

from llmops.config import Monitoring
from llmops.events.elasticsearch_client import get_stream_name
from llmops.events.events import build_event, emit
from llmops.events.shipping import ship_events
from llmops.events.sinks.elasticsearch import ElasticsearchSink
from llmops.events.sinks.factory import make_sinks
from llmops.events.sinks.sink import BatchRefusedError, SinkError

from ..faulty import count_waiting, read_dead_letters

NUMBERS = itertools.count()
N = "event.duration"  #: a number, as the server's template has it


@pytest.fixture
def dataset():
    """A kind of event that no other test has: a data stream cannot be deleted on every server."""
    return f"llmops.test{next(NUMBERS)}"


@pytest.fixture
def client(event_server):
    with Elasticsearch(event_server, max_retries=0, request_timeout=60) as client:
        yield client


def read_stored(client, dataset):
    stream = get_stream_name(dataset)
    client.indices.refresh(index=stream)
    found = client.search(index=stream, size=100, sort=[N])
    return [hit["_source"] for hit in found["hits"]["hits"]]


def test_events_reach_elasticsearch_once_even_if_sent_twice(client, dataset):
    events = [build_event(dataset, {N: n}) for n in range(3)]
    sink = ElasticsearchSink(client)
    assert sink.send(events[:2]) == []
    assert sink.send(events) == []
    of = {"data_stream.type": "logs", "data_stream.dataset": dataset, "data_stream.namespace": "default"}
    assert read_stored(client, dataset) == [{**event, **of} for event in events]
    client.indices.rollover(alias=get_stream_name(dataset))  # then it is there twice, with one id
    assert sink.send([events[2], events[2]]) == []
    assert [found["event.id"] for found in read_stored(client, dataset)][2:] == [events[2]["event.id"]] * 2


def test_an_event_that_elasticsearch_refuses_is_kept_with_the_reason_and_the_rest_arrives(client, dataset, tmp_path):
    for n in (1, "ana@example.org", 3):
        emit(tmp_path, dataset, {N: n})
    sink = ElasticsearchSink(client)
    assert [r.document[N] for r in sink.send([build_event(dataset, {N: n}) for n in ("no number", 5)])] == ["no number"]
    shipment = ship_events(tmp_path, [sink])["elasticsearch"]
    assert (shipment.sent, shipment.rejected, shipment.error) == (3, 1, "")
    assert [event[N] for event in read_stored(client, dataset)] == [1, 3, 5]
    ((_, _, reason),) = read_dead_letters(tmp_path)  # which repeats nothing of what somebody wrote
    assert "400" in reason and N in reason and "Preview" not in reason and "ana" not in reason


def test_events_wait_while_elasticsearch_is_away_and_each_kind_has_a_data_stream(client, tmp_path):
    datasets = [f"llmops.test{next(NUMBERS)}" for _ in range(2)]
    for dataset in datasets:
        emit(tmp_path, dataset, {N: 1})
    away = ElasticsearchSink.connect("http://127.0.0.1:9")
    assert ship_events(tmp_path, [away])["elasticsearch"].error
    away.close()
    assert ship_events(tmp_path, [ElasticsearchSink(client)])["elasticsearch"].sent >= 2
    for dataset in datasets:
        (event,) = read_stored(client, dataset)
        assert event["event.dataset"] == event["data_stream.dataset"] == dataset
    assert all(name.startswith(".ds-logs-llmops.") for name in client.indices.get(index="logs-llmops.*"))


def test_without_a_template_events_wait_and_no_index_of_guessed_types_is_made(client, tmp_path):
    emit(tmp_path, "elsewhere", {N: 1})
    sink, stream = ElasticsearchSink(client), get_stream_name("elsewhere")
    assert "template" in ship_events(tmp_path, [sink])["elasticsearch"].error
    assert (
        not client.indices.exists(index=stream)
        and count_waiting(tmp_path)["elasticsearch"]
        and read_dead_letters(tmp_path) == []
    )
    template = {"settings": {"number_of_replicas": 0}}
    client.indices.put_index_template(
        name="elsewhere", index_patterns=[stream], data_stream={}, priority=500, template=template
    )
    assert ship_events(tmp_path, [sink])["elasticsearch"].error == ""
    assert len(read_stored(client, "elsewhere")) == 1


def make_error(status):
    """The answer to two documents of which one was not stored."""
    items = [{"create": {"status": s, "error": {"type": "error", "reason": "is full"}}} for s in (201, status)]
    return {"errors": True, "items": items}


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        *((200, make_error(status), SinkError) for status in (429, 503, 403, 404)),
        *((status, {"error": "is full"}, SinkError) for status in (400, 401, 429)),
        (413, {"error": "is full"}, BatchRefusedError),
    ],
)
def test_what_is_not_an_event_s_fault_is_no_reason_to_give_it_up(status, body, error):
    class Node(Urllib3HttpNode):
        def perform_request(self, *_, **__):
            headers = HttpHeaders({"content-type": "application/json", "x-elastic-product": "Elasticsearch"})
            return NodeApiResponse(ApiResponseMeta(status, "1.1", headers, 0.0, self.config), json.dumps(body).encode())

    sink = ElasticsearchSink(Elasticsearch("http://127.0.0.1:9", node_class=Node, max_retries=0))
    with pytest.raises(error, match="full"):
        sink.send([build_event("x", {}), build_event("x", {})])


def test_the_key_or_the_user_of_the_environment_is_sent_and_never_told(receiver, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    config = Monitoring(sinks=("local", "elasticsearch"), elasticsearch_url=receiver.url)
    receiver.misbehave("", "500")
    for environ in (
        {"ELASTICSEARCH_API_KEY": "c2VjcmV0"},
        {"ELASTICSEARCH_USER": "writer", "ELASTICSEARCH_PASSWORD": "secret12"},
        {},
    ):
        local, sink = make_sinks(tmp_path, config, environ)
        assert (local.name, sink.name) == ("local", "elasticsearch")
        sink.send([build_event("llmops.test", {})])
        with pytest.raises(SinkError) as error:
            sink.send([build_event("llmops.test", {})])
        sink.close()
        assert "c2VjcmV0" not in f"{error.value} {caplog.text}" and "secret12" not in f"{error.value} {caplog.text}"
    sent = [request["authorization"] for request in receiver.requests]
    assert sent[::2] == ["ApiKey c2VjcmV0", "Basic d3JpdGVyOnNlY3JldDEy", ""]
