"""Traces of requests: spans of what happened, the caller's trace, nothing of what was said."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from pathlib import Path

import pytest
import yaml
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from llmops.errors import StateUnavailable
from llmops.monitoring.shipping import Shipper
from serving import app as app_module
from serving.engines.echo import EchoEngine
from serving.observe.traces import Traces, traces_to

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
COLLECTOR = next((p for up in Path(__file__).parents if (p := up / "shared" / "otel" / "otelcol").exists()), None)


@pytest.fixture
def spans(monkeypatch):
    exporter = InMemorySpanExporter()
    monkeypatch.setattr(app_module, "traces_to", lambda url: traces_to(url, SimpleSpanProcessor(exporter)))
    return exporter.get_finished_spans


def ask(site, headers=None, engine_for=None, **body):
    with site.client(engine_for) as client:
        site.ready(client)
        body = {"prompt": "one two three", **body}
        answer = client.post("/generate", json=body, headers={**site.headers(), **(headers or {})})
    [event] = site.events()
    return answer, event


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_has_a_span_and_below_it_guard_and_engine(site, spans, stream):
    _, event = ask(site, stream=stream, temperature=0.5)
    engine, guard, request = spans()
    assert (request.name, guard.name, engine.name) == (
        "POST /generate",
        "guard",
        f"text_completion {site.config.release.name}",
    )
    assert f"{request.context.trace_id:032x}" == event["trace.id"] and request.parent is None
    assert guard.parent.span_id == engine.parent.span_id == request.context.span_id
    assert request.attributes["gen_ai.usage.output_tokens"] == 3
    assert request.attributes["http.response.status_code"] == 200
    assert engine.attributes["gen_ai.request.temperature"] == 0.5
    assert engine.attributes["llmops.model.version"] == "v1"
    assert engine.attributes["gen_ai.response.finish_reasons"] == ("stop",)
    assert guard.attributes["llmops.guard.verdict"] == "passed"
    assert request.start_time <= engine.start_time <= guard.start_time <= guard.end_time == engine.end_time
    assert engine.end_time <= request.end_time
    assert abs(request.start_time - time.time_ns()) < 600e9
    assert "two" not in "".join(span.to_json() for span in spans())


def test_the_trace_of_the_caller_goes_on(site, spans):
    _, event = ask(site, {"traceparent": f"00-{TRACE}-{PARENT}-01"})
    request = spans()[-1]
    assert event["trace.id"] == TRACE == f"{request.context.trace_id:032x}"
    assert f"{request.parent.span_id:016x}" == PARENT


def test_what_the_caller_does_not_sample_is_left_out_and_the_event_names_the_trace(site, spans):
    _, event = ask(site, {"traceparent": f"00-{TRACE}-{PARENT}-00"})
    assert event["trace.id"] == TRACE and not spans()


@pytest.mark.parametrize("wrong", ["", "x", f"00-{'0' * 32}-{PARENT}-01", f"00-{TRACE}-zz-01", "00-" + "ü" * 32])
def test_a_traceparent_that_is_none_is_left_aside(site, spans, wrong):
    answer, event = ask(site, {"traceparent": wrong.encode("latin-1")})
    assert answer.status_code == 200 and event["trace.id"] != TRACE and len(spans()) == 3


def test_without_traces_the_event_still_names_the_trace_of_the_caller(site):
    _, event = ask(site, {"traceparent": f"00-{TRACE}-{PARENT}-01"})
    assert event["trace.id"] == TRACE


def test_without_traces_and_without_a_caller_s_there_is_none(site):
    _, event = ask(site)
    assert "trace.id" not in event


def test_a_failure_is_one_in_its_spans(site, spans):
    ask(site, engine_for=lambda v: site.engines.setdefault(v.name, EchoEngine(fail_on="two")))
    engine, _, request = spans()
    assert not request.status.is_ok and not engine.status.is_ok
    assert request.attributes["error.type"] == engine.attributes["error.type"] == "internal"


def test_a_refusal_is_no_failure(site, spans):
    ask(site, prompt=" ")
    [request] = spans()
    assert (
        request.attributes["http.response.status_code"] == 422 and request.attributes["error.type"] == "prompt_refused"
    )
    assert request.status.is_unset


def test_a_collector_that_is_away_changes_no_answer(site, free_port):
    site.config = site.config.model_copy(
        update={"monitoring": site.config.monitoring.model_copy(update={"traces_url": f"http://127.0.0.1:{free_port}"})}
    )
    answer, event = ask(site)
    assert answer.status_code == 200 and event["trace.id"]


@pytest.fixture
def ended(monkeypatch):
    """What has ended when the app ends, in order."""
    names = []
    monkeypatch.setattr(app_module.Watch, "stop", lambda watch: names.append("alerts"))
    stop = Shipper.stop
    monkeypatch.setattr(Shipper, "stop", lambda shipper: (stop(shipper), names.append("events")))
    monkeypatch.setattr(Traces, "close", lambda traces: names.append("traces"))
    return names


def test_events_are_shipped_before_a_collector_that_hangs_is_waited_for(site, ended):
    with site.client() as client:
        site.ready(client)
    assert ended == ["alerts", "events", "traces"]


def test_models_that_cannot_end_keep_no_events_back(site, ended, monkeypatch):
    stop = app_module.Models.stop

    async def fail(models):
        await stop(models)
        raise StateUnavailable("the database is away")

    monkeypatch.setattr(app_module.Models, "stop", fail)
    with pytest.raises(StateUnavailable), site.client() as client:
        site.ready(client)
    assert ended == ["alerts", "events", "traces"]


@pytest.mark.skipif(COLLECTOR is None, reason="needs OpenTelemetry's collector beside the project: ../shared/otel")
def test_a_real_collector_gets_the_spans(site, tmp_path, free_port):
    received = tmp_path / "received.jsonl"
    config = {
        "receivers": {"otlp": {"protocols": {"http": {"endpoint": f"127.0.0.1:{free_port}"}}}},
        "exporters": {"file": {"path": str(received)}},
        "service": {
            "telemetry": {"metrics": {"level": "none"}},
            "pipelines": {"traces": {"receivers": ["otlp"], "exporters": ["file"]}},
        },
    }
    (tmp_path / "otel.yaml").write_text(yaml.safe_dump(config))
    log = (tmp_path / "otel.log").open("w")
    collector = subprocess.Popen([COLLECTOR, "--config", tmp_path / "otel.yaml"], stdout=log, stderr=log)
    try:
        site.until(lambda: _listens(free_port))
        url = f"http://127.0.0.1:{free_port}/"
        site.config = site.config.model_copy(
            update={"monitoring": site.config.monitoring.model_copy(update={"traces_url": url})}
        )
        _, event = ask(site, {"traceparent": f"00-{TRACE}-{PARENT}-01"})
        site.until(lambda: received.exists() and received.read_text().endswith("\n"))
    finally:
        collector.terminate()
        collector.wait(20)
    spans = [
        span
        for line in received.read_text().splitlines()
        for resource in json.loads(line)["resourceSpans"]
        for scope in resource["scopeSpans"]
        for span in scope["spans"]
    ]
    assert {span["traceId"] for span in spans} == {event["trace.id"]} == {TRACE}
    assert len(spans) == 3 and [span["name"] for span in spans].count("POST /generate") == 1


def _listens(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
