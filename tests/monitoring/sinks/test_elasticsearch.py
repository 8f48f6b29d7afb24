"""The Elasticsearch sink against a real server, and, where there is none, the part of it that osmem-server can.

osmem-server is a server process with the same API, but without data streams.
"""

import itertools
import json
import logging

import pytest
from elastic_transport import ApiResponseMeta, HttpHeaders, Urllib3HttpNode
from elastic_transport._node._base import NodeApiResponse
from elasticsearch import Elasticsearch
from osmem_server import OsmemServer

from llmops.config import Monitoring
from llmops.monitoring.elasticsearch_client import stream_of
from llmops.monitoring.events import build, emit
from llmops.monitoring.shipping import ship
from llmops.monitoring.sinks.base import BatchRefusedError, SinkError, SinkMisconfiguredError
from llmops.monitoring.sinks.configured import sinks_for
from llmops.monitoring.sinks.elasticsearch import ElasticsearchSink

from ..conftest import TEMPLATE
from ..faulty import dead, waits

NUMBERS = itertools.count()


class PlainJsonNode(Urllib3HttpNode):
    """osmem-server answers 406 to Elasticsearch's own media types and does not name the product."""

    def perform_request(self, method, target, body=None, headers=None, request_timeout=None):
        plain = {k: v.replace("application/vnd.elasticsearch+", "application/") for k, v in (headers or {}).items()}
        plain = {k: v.split(";")[0] for k, v in plain.items()}
        target = target.split("?")[0]  # it knows no `require_data_stream`
        answer = super().perform_request(method, target, body=body, headers=plain, request_timeout=request_timeout)
        answer.meta.headers["x-elastic-product"] = "Elasticsearch"
        return answer


@pytest.fixture(scope="module")
def osmem():
    with OsmemServer.start(japanese=False) as running:
        yield running


@pytest.fixture
def dataset():
    """A kind of event that no other test has: a data stream cannot be deleted on every server."""
    return f"llmops.test{next(NUMBERS)}"


@pytest.fixture(params=["osmem", "elasticsearch"])
def client(request, dataset):
    """A client of a server that has data streams (osmem: an index of that name)."""
    server = request.getfixturevalue(request.param)
    if request.param == "osmem":
        with server.clone() as clone, Elasticsearch(clone.url, node_class=PlainJsonNode, max_retries=0) as client:
            client.indices.create(index=stream_of(dataset), mappings=TEMPLATE["template"]["mappings"])
            yield client
        return
    with Elasticsearch(server.url, max_retries=0) as client:
        client.indices.put_index_template(name="llmops", **TEMPLATE)
        yield client


def stored(client, dataset):
    stream = stream_of(dataset)
    client.indices.refresh(index=stream)
    found = client.search(index=stream, size=100, sort=["llmops.n"])
    return [hit["_source"] for hit in found["hits"]["hits"]]


def test_events_reach_elasticsearch_once_even_if_sent_twice(client, dataset):
    events = [build(dataset, {"llmops.n": n}) for n in range(3)]
    sink = ElasticsearchSink(client)
    assert sink.send(events[:2]) == []
    assert sink.send(events) == []
    of = {"data_stream.type": "logs", "data_stream.dataset": dataset, "data_stream.namespace": "default"}
    assert stored(client, dataset) == [{**event, **of} for event in events]


def test_an_event_that_elasticsearch_refuses_is_kept_with_the_reason_and_the_rest_arrives(client, dataset, tmp_path):
    for n in (1, "no number", 3):
        emit(tmp_path, dataset, {"llmops.n": n})
    sink = ElasticsearchSink(client)
    sink_events = [build(dataset, {"llmops.n": n}) for n in ("no number", 5)]
    assert [r.document["llmops.n"] for r in sink.send(sink_events)] == ["no number"]
    shipment = ship(tmp_path, [sink])["elasticsearch"]
    assert (shipment.sent, shipment.rejected, shipment.error) == (3, 1, "")
    assert [event["llmops.n"] for event in stored(client, dataset)] == [1, 3, 5]
    ((_, _, reason),) = dead(tmp_path)
    assert "400" in reason


def test_events_wait_while_elasticsearch_is_away_and_arrive_after(client, dataset, tmp_path):
    emit(tmp_path, dataset, {"llmops.n": 1})
    away = ElasticsearchSink.connect("http://127.0.0.1:9")
    assert ship(tmp_path, [away])["elasticsearch"].error
    away.close()
    assert ship(tmp_path, [ElasticsearchSink(client)])["elasticsearch"].sent >= 1
    assert len(stored(client, dataset)) == 1


@pytest.fixture
def real(elasticsearch):
    with Elasticsearch(elasticsearch.url, max_retries=0) as client:
        client.indices.put_index_template(name="llmops", **TEMPLATE)
        yield client


def test_each_kind_of_event_has_a_data_stream_of_its_own(real, elasticsearch, tmp_path):
    for dataset in ("llmops.one", "llmops.other"):
        emit(tmp_path, dataset, {"llmops.n": 1})
    (sink,) = sinks_for(tmp_path, Monitoring(sinks=("elasticsearch",), elasticsearch_url=elasticsearch.url), {})
    assert ship(tmp_path, [sink])["elasticsearch"].sent == 2
    sink.close()
    for dataset in ("llmops.one", "llmops.other"):
        (event,) = stored(real, dataset)
        assert event["event.dataset"] == event["data_stream.dataset"] == dataset
    assert all(name.startswith(".ds-logs-llmops.") for name in real.indices.get(index="logs-llmops.*"))


def test_a_repeated_event_after_a_rollover_is_there_twice_with_one_id(real, dataset):
    event = build(dataset, {"llmops.n": 1})
    sink = ElasticsearchSink(real)
    sink.send([event])
    real.indices.rollover(alias=stream_of(dataset))
    assert sink.send([event, event]) == []
    assert [found["event.id"] for found in stored(real, dataset)] == [event["event.id"]] * 2


def test_without_a_template_events_wait_and_no_index_of_guessed_types_is_made(real, tmp_path):
    emit(tmp_path, "elsewhere", {"llmops.n": 1})
    sink = ElasticsearchSink(real)
    assert "template" in ship(tmp_path, [sink])["elasticsearch"].error
    assert (
        not real.indices.exists(index=stream_of("elsewhere"))
        and waits(tmp_path)["elasticsearch"]
        and dead(tmp_path) == []
    )
    real.indices.put_index_template(name="elsewhere", **TEMPLATE | {"index_patterns": [stream_of("elsewhere")]})
    assert ship(tmp_path, [sink])["elasticsearch"].error == ""
    assert len(stored(real, "elsewhere")) == 1


def test_a_reason_repeats_nothing_of_what_somebody_wrote(real, dataset):
    (rejection,) = ElasticsearchSink(real).send([build(dataset, {"llmops.n": "ana@example.org"})])
    assert "llmops.n" in rejection.reason and "400" in rejection.reason
    assert "Preview" not in rejection.reason


class FakeNode(Urllib3HttpNode):
    """A server with one answer."""

    status, body = 200, {}

    def perform_request(self, method, target, body=None, headers=None, request_timeout=None):
        content = HttpHeaders({"content-type": "application/json", "x-elastic-product": "Elasticsearch"})
        meta = ApiResponseMeta(self.status, "1.1", content, 0.0, self.config)
        return NodeApiResponse(meta, json.dumps(self.body).encode())


def answering(status, body):
    node = type("Node", (FakeNode,), {"status": status, "body": body})
    return ElasticsearchSink(Elasticsearch("http://127.0.0.1:9", node_class=node, max_retries=0))


def items(*statuses):
    found = [{"create": {"status": s, "error": {"type": "error", "reason": "is full"}}} for s in statuses]
    return {"errors": True, "items": found}


@pytest.mark.parametrize("status", [429, 500, 503, 403, 404])
def test_what_is_not_an_event_s_fault_is_no_reason_to_give_it_up(status):
    with pytest.raises(SinkMisconfiguredError if status in (403, 404) else SinkError, match="full"):
        answering(200, items(201, status)).send([build("x", {}), build("x", {})])


@pytest.mark.parametrize(
    "status,error",
    [
        (413, BatchRefusedError),
        (400, SinkError),
        (401, SinkMisconfiguredError),
        (403, SinkMisconfiguredError),
        (429, SinkError),
    ],
)
def test_what_an_answer_to_a_whole_batch_means(status, error):
    with pytest.raises(error):
        answering(status, {"error": {"type": "x", "reason": "y"}}).send([build("x", {})])


def test_the_key_or_the_user_of_the_environment_is_sent_and_never_told(receiver, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    config = Monitoring(sinks=("local", "elasticsearch"), elasticsearch_url=receiver.url)
    for environ in (
        {"ELASTICSEARCH_API_KEY": "c2VjcmV0"},
        {"ELASTICSEARCH_USER": "writer", "ELASTICSEARCH_PASSWORD": "secret12"},
        {},
    ):
        local, sink = sinks_for(tmp_path, config, environ)
        assert (local.name, sink.name) == ("local", "elasticsearch")
        sink.send([build("llmops.test", {})])
        receiver.misbehave(**{"500": 1})
        with pytest.raises(SinkError) as error:
            sink.send([build("llmops.test", {})])
        receiver.misbehave()
        sink.close()
        assert "c2VjcmV0" not in f"{error.value} {caplog.text}" and "secret12" not in f"{error.value} {caplog.text}"
    sent = [request["authorization"] for request in receiver.requests()]
    assert sent[::2] == ["ApiKey c2VjcmV0", "Basic d3JpdGVyOnNlY3JldDEy", ""]
