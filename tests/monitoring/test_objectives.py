from datetime import UTC, datetime, timedelta

import pytest

from llmops.config import Config, Monitoring
from llmops.errors import ConfigError
from llmops.monitoring.datasets import PIPELINE, SERVING
from llmops.monitoring.events import build, timestamp
from llmops.monitoring.figures.requests import percentile
from llmops.monitoring.objectives import report
from llmops.monitoring.sinks.local import LocalStore

SINCE = datetime(2026, 1, 1, 10, tzinfo=UTC)
UNTIL = SINCE + timedelta(hours=1)


def request(status=200, ms=100.0, minute=1.0, version="v1"):
    return build(
        SERVING,
        {
            "@timestamp": timestamp(SINCE + timedelta(minutes=minute)),
            "http.response.status_code": status,
            "event.duration": int(ms * 1e6),
            "gen_ai.usage.output_tokens": 5 if status == 200 else None,
            "llmops.model.version": version,
        },
    )


@pytest.fixture
def judged(tmp_path):
    """What is reported of these events."""

    def judged(events, **promised):
        config = Config(home=tmp_path, monitoring=Monitoring(**promised))
        LocalStore(config.events).send(events)
        return report(config, SINCE, UNTIL)

    return judged


def test_percentiles_are_values_that_occurred():
    assert percentile([], 0.5) is None
    assert percentile([7.0], 0.99) == 7.0
    assert percentile([float(n) for n in range(1, 101)], 0.95) == 95.0
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert percentile([3.0, 1.0, 2.0], 0.0) == 1.0


def test_a_healthy_window_without_what_is_outside_and_what_is_no_request(judged):
    outside = [request(minute=minute) for minute in (-0.001, 60)]
    other = build(PIPELINE, {"@timestamp": timestamp(SINCE), "event.duration": 5})
    result = judged([*(request(ms=n, minute=59.999 * (n % 2)) for n in range(1, 101)), *outside, other])
    assert (result["requests"], result["error_rate"], result["output_tokens"]) == (100, 0, 500)
    assert result["latency_ms"] == {"p50": 50, "p95": 95, "p99": 99}
    assert result["judged"] and result["alerts"] == []


def test_each_version_has_its_own_numbers(judged):
    events = [request(version="v10", ms=10), request(version="v9", ms=30), request(status=500, version="v9")]
    versions = judged(events)["versions"]
    assert list(versions) == ["v9", "v10"]
    assert (versions["v9"]["error_rate"], versions["v10"]["error_rate"]) == (0.5, 0)
    assert versions["v10"]["latency_ms"]["p95"] == 10


def test_mistakes_of_callers_are_counted_apart(judged):
    result = judged([request()] + [request(status=s, ms=1) for s in (401, 403, 422, 429)])
    assert (result["requests"], result["answered"], result["refused"], result["failed"]) == (5, 1, 4, 0)
    assert result["error_rate"] == 0 and result["latency_ms"]["p50"] == 100


@pytest.mark.parametrize(
    ("events", "alerts"),
    [
        ([(200, 900)] * 18 + [(503, 100)] * 2, ["latency_p95_ms", "error_rate"]),
        ([(200, 500)] * 20, []),  # just met
        ([(500, 100)] * 19 + [(401, 100)] * 50, []),  # too few
        ([], []),
    ],
)
def test_what_is_breached_is_named(judged, events, alerts):
    result = judged([request(*one) for one in events], latency_p95_ms=500, error_rate=0.05, min_requests=20)
    assert result["alerts"] == alerts and result["requests"] == len(events)
    assert result["judged"] == (len(events) == 20)


def test_without_a_sink_that_can_be_read_there_is_no_report(judged, tmp_path):
    with pytest.raises(ConfigError):
        report(Config(home=tmp_path, monitoring=Monitoring(sinks=())), SINCE, UNTIL)
