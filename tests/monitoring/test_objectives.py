from datetime import UTC, datetime, timedelta

import pytest

from llmops.config import Config, Monitoring
from llmops.errors import ConfigError
from llmops.monitoring.datasets import SERVING
from llmops.monitoring.events import build, emit, timestamp
from llmops.monitoring.figures.requests import percentile
from llmops.monitoring.objectives import report
from llmops.monitoring.shipping import drain
from llmops.monitoring.sinks.local import LocalStore

SINCE = datetime(2026, 1, 1, 10, tzinfo=UTC)
UNTIL = SINCE + timedelta(hours=1)


def request(status=200, ms=100.0, minute=1.0, version="v1", path="/generate"):
    return build(
        SERVING,
        {
            "@timestamp": timestamp(SINCE + timedelta(minutes=minute)),
            "http.response.status_code": status,
            "event.duration": int(ms * 1e6),
            "gen_ai.usage.output_tokens": 5 if status == 200 else None,
            "llmops.model.version": version,
            "url.path": path,
        },
    )


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "events"


@pytest.fixture
def store(folder):
    return LocalStore(folder)


def judged(folder, promised=None):
    return report(Config(home=folder.parent, monitoring=promised or Monitoring()), SINCE, UNTIL)


def test_percentiles_are_values_that_occurred():
    assert percentile([], 0.5) is None
    assert percentile([7.0], 0.99) == 7.0
    assert percentile([float(n) for n in range(1, 101)], 0.95) == 95.0
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert percentile([3.0, 1.0, 2.0], 0.0) == 1.0


@pytest.mark.parametrize("few", [10_000, 0])  # read one by one, and by roll-ups
def test_embeddings_are_not_judged_with_answers(store, folder, few):
    embeddings = [{**request(ms=9, path="/v1/embeddings"), "gen_ai.operation.name": "embeddings"} for _ in range(200)]
    embeddings = [{**event, "event.id": f"e{n}"} for n, event in enumerate(embeddings)]
    store.send([*(request(ms=9000) for _ in range(40)), *(request(status=500) for _ in range(10)), *embeddings])
    result = report(Config(home=folder.parent), SINCE, UNTIL, LocalStore(folder, few=few))
    assert result["requests"] == 50 and result["error_rate"] == 0.2
    assert result["latency_ms"]["p50"] == pytest.approx(9000, rel=0.01)
    assert result["alerts"] == ["latency_p95_ms", "error_rate"]


def test_a_healthy_window(store, folder):
    store.send([request(ms=n) for n in range(1, 101)])
    result = judged(folder)
    assert (result["requests"], result["error_rate"], result["output_tokens"]) == (100, 0, 500)
    assert result["latency_ms"] == {"p50": 50, "p95": 95, "p99": 99}
    assert result["judged"] and result["alerts"] == []


def test_each_version_has_its_own_numbers(store, folder):
    store.send([request(version="v10", ms=10), request(version="v9", ms=30), request(status=500, version="v9")])
    versions = judged(folder)["versions"]
    assert list(versions) == ["v9", "v10"]
    assert (versions["v9"]["error_rate"], versions["v10"]["error_rate"]) == (0.5, 0)
    assert versions["v10"]["latency_ms"]["p95"] == 10


def test_only_the_window_counts(store, folder):
    store.send([request(minute=m) for m in (-0.001, 0, 59.999, 60)])
    assert judged(folder)["requests"] == 2


def test_mistakes_of_callers_are_counted_apart(store, folder):
    store.send([request()] + [request(status=s, ms=1) for s in (401, 403, 422, 429)])
    result = judged(folder)
    assert (result["requests"], result["answered"], result["refused"], result["failed"]) == (5, 1, 4, 0)
    assert result["error_rate"] == 0
    assert result["latency_ms"]["p50"] == 100


def test_what_is_breached_is_named(store, folder):
    store.send([request(ms=900) for _ in range(18)] + [request(status=503) for _ in range(2)])
    config = Monitoring(latency_p95_ms=500, error_rate=0.05)
    assert judged(folder, config)["alerts"] == ["latency_p95_ms", "error_rate"]


def test_an_objective_that_is_just_met_is_not_breached(store, folder):
    store.send([request(ms=500) for _ in range(20)])
    assert judged(folder, Monitoring(latency_p95_ms=500))["alerts"] == []


def test_the_latency_that_is_promised_is_that_of_generate_alone(store, folder):
    chats = [request(ms=9000, path="/v1/chat/completions") for _ in range(40)]
    store.send([*chats, *(request(ms=300) for _ in range(19))])
    few = judged(folder, Monitoring(latency_p95_ms=200))
    assert few["alerts"] == [] and few["judged"]  # 19 of them are too few
    store.send([request(ms=300)])
    assert judged(folder, Monitoring(latency_p95_ms=500))["alerts"] == []
    late = judged(folder, Monitoring(latency_p95_ms=200))
    assert late["alerts"] == ["latency_p95_ms"] and late["objectives"][0]["value"] == 300
    assert late["latency_ms"]["p95"] == 9000 and late["requests"] == 60


def test_few_requests_are_not_judged(store, folder):
    store.send([request(status=500) for _ in range(19)] + [request(status=401) for _ in range(50)])
    result = judged(folder, Monitoring(min_requests=20))
    assert result["error_rate"] == 1 and not result["judged"] and result["alerts"] == []


def test_an_empty_window(folder):
    result = judged(folder)
    assert (result["requests"], result["error_rate"], result["latency_ms"]["p95"]) == (0, None, None)
    assert result["alerts"] == []


def test_other_events_are_no_requests(folder):
    emit(folder, "llmops.pipeline", {"@timestamp": timestamp(SINCE), "event.duration": 5})
    drain(folder, Monitoring())
    assert judged(folder)["requests"] == 0


def test_without_a_sink_that_can_be_read_there_is_no_report(folder):
    with pytest.raises(ConfigError):
        judged(folder, Monitoring(sinks=()))
