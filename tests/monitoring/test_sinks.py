"""The local store, and the Elasticsearch sink against osmem-server, a real server process with the same API."""

import json
import sqlite3

import pytest
from elastic_transport import ApiResponseMeta, HttpHeaders, Urllib3HttpNode
from elastic_transport._node._base import NodeApiResponse
from elasticsearch import Elasticsearch
from osmem_server import OsmemServer

from llmops.config import Monitoring
from llmops.monitoring.events import build, emit
from llmops.monitoring.sinks.base import SinkError
from llmops.monitoring.sinks.configured import sinks_for
from llmops.monitoring.sinks.elasticsearch import ElasticsearchSink
from llmops.monitoring.sinks.local import LocalStore
from llmops.monitoring.spool import Spool, ship

INDEX = "llmops-events"


class PlainJsonNode(Urllib3HttpNode):
    """osmem-server answers 406 to Elasticsearch's own media types and does not name the product."""

    def perform_request(self, method, target, body=None, headers=None, request_timeout=None):
        plain = {k: v.replace("application/vnd.elasticsearch+", "application/") for k, v in (headers or {}).items()}
        plain = {k: v.split(";")[0] for k, v in plain.items()}
        answer = super().perform_request(method, target, body=body, headers=plain, request_timeout=request_timeout)
        answer.meta.headers["x-elastic-product"] = "Elasticsearch"
        return answer


@pytest.fixture(scope="module")
def server():
    with OsmemServer.start(japanese=False) as running:
        yield running


@pytest.fixture
def client(server):
    with server.clone() as clone:
        client = Elasticsearch(clone.url, node_class=PlainJsonNode, max_retries=0)
        client.indices.create(
            index=INDEX, mappings={"properties": {"@timestamp": {"type": "date"}, "llmops.n": {"type": "long"}}}
        )
        yield client
        client.close()


def stored(client):
    client.indices.refresh(index=INDEX)
    found = client.search(index=INDEX, size=100, sort=["llmops.n"])
    return [hit["_source"] for hit in found["hits"]["hits"]]


def test_events_reach_elasticsearch_once_even_if_sent_twice(client):
    events = [build("llmops.test", {"llmops.n": n}) for n in range(3)]
    sink = ElasticsearchSink(client, INDEX)
    assert sink.send(events[:2]) == []
    assert sink.send(events) == []
    assert stored(client) == events


def test_an_event_that_elasticsearch_refuses_is_kept_with_the_reason_and_the_rest_arrives(client, tmp_path):
    for n in (1, "no number", 3):
        emit(tmp_path, "llmops.test", {"llmops.n": n})
    shipment = ship(tmp_path, [ElasticsearchSink(client, INDEX)])["elasticsearch"]
    assert (shipment.sent, shipment.rejected, shipment.error) == (3, 1, "")
    assert [event["llmops.n"] for event in stored(client)] == [1, 3]
    with Spool(tmp_path) as spool:
        ((_, rejection),) = spool.rejected()
        assert spool.waiting() == {"elasticsearch": 0}
    assert rejection.document["llmops.n"] == "no number"
    assert "400" in rejection.reason


def test_events_wait_while_elasticsearch_is_away_and_arrive_after(client, tmp_path):
    emit(tmp_path, "llmops.test", {"llmops.n": 1})
    away = ElasticsearchSink.connect("http://127.0.0.1:9", INDEX)
    assert ship(tmp_path, [away])["elasticsearch"].error
    away.close()
    assert ship(tmp_path, [ElasticsearchSink(client, INDEX)])["elasticsearch"].sent == 1
    assert len(stored(client)) == 1


class BusyNode(Urllib3HttpNode):
    """A server that takes the first event and has no room for the second."""

    def perform_request(self, method, target, body=None, headers=None, request_timeout=None):
        full = {"type": "es_rejected_execution_exception", "reason": "queue is full"}
        items = [{"create": {"_id": "1", "status": 201}}, {"create": {"_id": "2", "status": 429, "error": full}}]
        content = HttpHeaders({"content-type": "application/json", "x-elastic-product": "Elasticsearch"})
        meta = ApiResponseMeta(200, "1.1", content, 0.0, self.config)
        return NodeApiResponse(meta, json.dumps({"errors": True, "items": items}).encode())


def test_a_busy_server_is_no_reason_to_give_an_event_up():
    client = Elasticsearch("http://127.0.0.1:9", node_class=BusyNode)
    with pytest.raises(SinkError, match="full"):
        ElasticsearchSink(client, INDEX).send([build("x", {}), build("x", {})])


def test_the_local_store_finds_by_dataset_and_time(tmp_path):
    store = LocalStore(tmp_path)
    events = [build("a" if n % 2 else "b", {"@timestamp": f"2026-01-01T00:00:0{n}.000Z", "n.x": n}) for n in range(6)]
    store.send(events)
    store.send(events[:3])
    assert [e["n.x"] for e in store.find("a")] == [1, 3, 5]
    assert [e["n.x"] for e in store.find("a", limit=2, newest_first=True)] == [5, 3]
    assert [e["n.x"] for e in store.find("a", "2026-01-01T00:00:01.000Z", "2026-01-01T00:00:05.000Z")] == [1, 3]
    assert store.columns("b", ["n.x", "missing"]) == [(0, None), (2, None), (4, None)]


def test_a_local_store_that_cannot_be_written_is_a_sink_that_is_down(tmp_path):
    store = LocalStore(tmp_path)
    store.send([])
    with sqlite3.connect(tmp_path / "store.db") as db:
        db.execute("DROP TABLE events")
    with pytest.raises(SinkError):
        store.send([build("x", {})])


def test_configured_sinks(tmp_path):
    config = Monitoring(sinks=("local", "elasticsearch"), elasticsearch_url="http://127.0.0.1:9200")
    sinks = sinks_for(tmp_path, config, {"ELASTICSEARCH_API_KEY": "c2VjcmV0"})
    assert [sink.name for sink in sinks] == ["local", "elasticsearch"]
    for sink in sinks:
        sink.close()
