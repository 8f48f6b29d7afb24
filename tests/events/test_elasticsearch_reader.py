"""The same questions to the local store and to a real Elasticsearch have the same answers."""

import random
from datetime import UTC, datetime, timedelta

import pytest
from elasticsearch import Elasticsearch
from elasticsearch.helpers import bulk

from llmops.config import Config, Monitoring
from llmops.events.datasets import FEEDBACK, GATE, SERVING
from llmops.events.elasticsearch_client import get_stream_name, make_client, read_login
from llmops.events.elasticsearch_reader import READER_LOGINS, ElasticsearchReader
from llmops.events.events import build_event, format_timestamp
from llmops.events.sinks.local import LocalStore
from llmops.frame.errors import EventsUnavailable
from llmops.monitoring.alerts.request_checks import CheckInputs, check_requests

START = datetime(2026, 3, 1, tzinfo=UTC)
HOURS = 24 * timedelta(hours=1)


def make_request(n, chance):
    status = chance.choices((200, 429, 503), (80, 10, 10))[0]
    answered = {"gen_ai.usage.input_tokens": n % 7, "gen_ai.usage.output_tokens": n % 11, "llmops.queue_time": n * 1000}
    failed = {"error.type": "limited" if status == 429 else "engine_died"}
    fields = {"@timestamp": format_timestamp(START + HOURS * n / 2000), "http.request.id": f"r{n}"}
    fields |= {"http.response.status_code": status, "event.duration": int(chance.lognormvariate(5, 1) * 1e6)}
    version = {"llmops.model.version": f"v{8 + n % 3}" if status != 429 else None}
    version |= {"url.path": path} if (path := ("", "/generate", "/v1/embeddings")[n % 3]) else {}
    return build_event(SERVING, {**fields, **version, **(answered if status == 200 else failed)})


def make_rating(n, word, key, later):
    fields = {
        "@timestamp": format_timestamp(START + HOURS * n / 2000 + timedelta(minutes=later)),
        "http.request.id": f"r{n}",
    }
    return build_event(FEEDBACK, {**fields, "llmops.key.prefix": key, "llmops.feedback.rating": word})


@pytest.fixture(scope="module")
def events():
    chance = random.Random(5)
    made = [make_request(n, chance) for n in range(2000)]
    made += [make_rating(n, "up", "a", 1) for n in range(0, 2000, 10)]
    made += [make_rating(n, "down", "a", 90) for n in range(0, 2000, 50)]
    made += [
        build_event(GATE, {"@timestamp": format_timestamp(START + HOURS * n), "llmops.gate.reasons": ["a", "b"]})
        for n in range(3)
    ]
    return made


@pytest.fixture(scope="module")
def remote(event_server, events):
    with Elasticsearch(event_server) as client:
        actions = [
            {"_op_type": "create", "_index": get_stream_name(e["event.dataset"]), "_id": e["event.id"], "_source": e}
            for e in events
        ]
        bulk(client, actions, refresh=True)
    return ElasticsearchReader(make_client(event_server, {}, timeout_s=60))


@pytest.fixture
def local(tmp_path, events):
    store = LocalStore(tmp_path / "events", Monitoring(raw_days=100_000, history_days=100_000))
    store.send(events)
    return store


def test_figures_are_those_of_the_local_store(remote, local):
    for since, until, step in (
        (START + timedelta(minutes=7), START + timedelta(minutes=501), timedelta(minutes=13)),
        (START - HOURS, START + timedelta(hours=1), timedelta(minutes=30)),
        (START, START + HOURS, None),
    ):
        ours, theirs = local.summarize(since, until, step), remote.summarize(since, until, step)
        assert list(ours.versions) == list(theirs.versions) == ["v8", "v9", "v10"]
        several = [[found.total, *found.versions.values(), *found.series] for found in (ours, theirs)]
        for one, other in zip(*several, strict=True):
            names = ("requests", "answered", "refused", "failed", "input_tokens", "output_tokens", "errors")
            assert [getattr(one, name) for name in names] == [getattr(other, name) for name in names]
            assert one.seconds == pytest.approx(other.seconds)
        assert ours.total.first_token_ms == theirs.total.first_token_ms == {"p50": None, "p95": None, "p99": None}
    window = START + timedelta(minutes=7), START + HOURS / 2
    assert local.count_by_path(*window) == remote.count_by_path(*window) and len(local.count_by_path(*window)) == 3
    for times in ("latency_ms", "queue_ms"):  # t-digest, which puts values between those that occurred
        assert getattr(ours.total, times) == pytest.approx(getattr(theirs.total, times), rel=0.1)


def test_requests_raise_the_same_alerts(remote, local, tmp_path):
    config = Config(home=tmp_path, alerts={"window_minutes": 60})
    ours, theirs = (check_requests(CheckInputs(config, reader), START + HOURS) for reader in (local, remote))
    assert ours == theirs and {"error_rate", "burn_rate_slow"} <= {finding.rule for finding in ours}


def test_ratings_are_joined_to_their_requests(remote, local):
    window = START, START + HOURS / 2
    assert remote.count_ratings(*window) == local.count_ratings(*window) != {}


def test_events_come_in_order_and_whole_and_over_pages(remote, local, monkeypatch):
    monkeypatch.setattr("llmops.events.elasticsearch_reader.PAGE_SIZE", 300)
    whole = format_timestamp(START), format_timestamp(START + HOURS)
    assert list(remote.find(SERVING, *whole)) == list(local.find(SERVING))
    bounds = format_timestamp(START + HOURS / 4), format_timestamp(START + HOURS / 3)
    assert list(remote.find(SERVING, *bounds)) == list(local.find(SERVING, *bounds))
    assert list(remote.find(GATE, until=format_timestamp(START + 3 * HOURS), limit=2, newest_first=True)) == list(
        local.find(GATE, limit=2, newest_first=True)
    )
    assert list(remote.find(SERVING, limit=700)) == list(local.find(SERVING, limit=700))
    assert list(remote.find("llmops.nothing")) == list(remote.find(SERVING, limit=0)) == []
    fields = ["http.request.id", "error.type", "nowhere"]
    assert remote.select(SERVING, fields, *bounds) == local.select(SERVING, fields, *bounds)


def test_without_any_stream_there_is_nothing(remote, monkeypatch):
    monkeypatch.setattr(
        "llmops.events.elasticsearch_reader.get_stream_name", lambda dataset: f"logs-{dataset}-elsewhere"
    )
    found = remote.summarize(START, START + HOURS, timedelta(hours=1))
    assert (found.total.requests, found.versions, len(found.series)) == (0, {}, 24)
    assert list(remote.find(SERVING)) == [] and remote.count_ratings(START, START + HOURS) == {}


def test_a_server_that_does_not_answer_is_said_to():
    reader = ElasticsearchReader.connect("http://127.0.0.1:9", {})
    with pytest.raises(EventsUnavailable, match="Elasticsearch"):
        reader.summarize(START, START + HOURS)
    with pytest.raises(EventsUnavailable):
        list(reader.find(SERVING))


def test_a_reader_has_credentials_of_its_own_or_those_of_the_sink():
    writer = {"ELASTICSEARCH_API_KEY": "w"}
    assert read_login(writer | {"ELASTICSEARCH_READER_API_KEY": "r"}, *READER_LOGINS) == {"api_key": "r"}
    assert read_login(writer, *READER_LOGINS) == {"api_key": "w"} and read_login({}, *READER_LOGINS) == {}
    user = {"ELASTICSEARCH_READER_USER": "me", "ELASTICSEARCH_READER_PASSWORD": "pw"}
    assert read_login(user | writer, *READER_LOGINS) == {"basic_auth": ("me", "pw")}
