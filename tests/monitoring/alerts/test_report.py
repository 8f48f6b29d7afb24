"""The report of a span of time: figures of its requests, and the alerts that were open."""

from datetime import UTC, datetime, timedelta

import pytest

from llmops.config import Config, Monitoring
from llmops.events.datasets import PIPELINE, SERVING
from llmops.events.events import build_event, format_timestamp
from llmops.events.sinks.local import LocalStore
from llmops.monitoring.alerts.rule_checker import RuleChecker, build_alert_report

SINCE = datetime(2026, 1, 1, 10, tzinfo=UTC)
UNTIL = SINCE + timedelta(hours=1)


def make_request(status=200, ms=100.0, minute=1.0):
    moment = format_timestamp(SINCE + timedelta(minutes=minute))
    fields = {"@timestamp": moment, "http.response.status_code": status, "event.duration": int(ms * 1e6)}
    return build_event(SERVING, {**fields, "gen_ai.usage.output_tokens": 5 if status == 200 else None})


def test_a_healthy_window_without_what_is_outside_and_what_is_no_request(tmp_path):
    outside = [make_request(minute=minute) for minute in (-0.001, 60)]
    other = build_event(PIPELINE, {"@timestamp": format_timestamp(SINCE), "event.duration": 5})
    config = Config(home=tmp_path)
    LocalStore(config.events).send(
        [*(make_request(ms=n, minute=59.999 * (n % 2)) for n in range(1, 101)), *outside, other]
    )
    result = build_alert_report(config, SINCE, UNTIL)
    assert (result["requests"], result["error_rate"], result["output_tokens"]) == (100, 0, 500)
    assert result["latency_ms"] == {"p50": 50, "p95": 95, "p99": 99}
    assert result["alerts"] == []


@pytest.mark.parametrize(
    ("events", "alerts"),
    [
        ([(200, 900)] * 20 + [(503, 100)] * 5, ["error_rate", "latency_p95"]),
        ([(200, 900)] * 4 + [(200, 100)] * 20, []),  # a share of slow ones that raises nothing, for they are few
        ([(200, 500)] * 20, []),  # just met
        ([(500, 100)] * 19 + [(401, 100)] * 50, []),  # too few
    ],
)
def test_the_report_names_what_was_raised_and_nothing_else(tmp_path, events, alerts):
    promised = Monitoring(latency_p95_ms=500, error_rate=0.05, min_requests=20)
    config = Config(home=tmp_path, monitoring=promised, alerts={"disk_free": 0, "off": ["burn_rate_fast"]})
    LocalStore(config.events).send([make_request(*one) for one in events])
    assert build_alert_report(config, SINCE, UNTIL)["alerts"] == []  # nobody has judged
    raised = RuleChecker(config).check(SINCE + timedelta(minutes=5))
    found = build_alert_report(config, SINCE, UNTIL)
    assert sorted(alert["rule"] for alert in found["alerts"]) == sorted(change["rule"] for change in raised) == alerts
    assert found["objectives"] == {"latency_p95_ms": 500, "error_rate": 0.05}
