"""Traces of requests: spans of what happened, the caller's trace, nothing of what was said."""

import json
import time

import pytest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from llmops.events.shipping import Shipper
from llmops.frame.errors import StateUnavailable
from serving import app as app_module
from serving.observe.traces import Traces, make_traces
from tests.serving.echo import EchoEngine

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


EXPORTER = InMemorySpanExporter()


@pytest.fixture(scope="module")
def traced(new_site, tmp_path_factory):
    """A site and a client of its app, whose spans are kept; its engine fails on a word."""
    site = new_site(tmp_path_factory.mktemp("site")).release()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(app_module, "make_traces", lambda url: make_traces(url, SimpleSpanProcessor(EXPORTER)))
        client = site.client(lambda v: EchoEngine(fail_on="bad"))
    with client:
        site.ready(client)
        yield site, client


@pytest.fixture
def asked(traced):
    """Ask, and return the answer, the request's event and its spans."""
    site, client = traced
    site.forget_events()
    EXPORTER.clear()

    def ask(headers=None, **body):
        body = {"prompt": "one two three", **body}
        answer = client.post("/generate", json=body, headers={**site.headers(), **(headers or {})})
        [event] = site.events()
        return answer, event, EXPORTER.get_finished_spans()

    return ask


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_has_a_span_and_below_it_guard_and_engine(asked, stream):
    _, event, spans = asked(stream=stream, temperature=0.5)
    engine, guard, request = spans
    assert [span.name for span in spans] == ["text_completion support-bot", "guard", "POST /generate"]
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
    assert "two" not in "".join(span.to_json() for span in spans)


@pytest.mark.parametrize("sampled", [True, False])
def test_the_trace_of_the_caller_goes_on_if_it_is_sampled_and_the_event_names_it(asked, sampled):
    _, event, spans = asked({"traceparent": f"00-{TRACE}-{PARENT}-0{sampled:d}"})
    assert event["trace.id"] == TRACE and bool(spans) == sampled
    for request in spans[-1:]:
        assert (f"{request.context.trace_id:032x}", f"{request.parent.span_id:016x}") == (TRACE, PARENT)


@pytest.mark.parametrize("wrong", ["", f"00-{'0' * 32}-{PARENT}-01", f"00-{TRACE}-zz-01", "00-" + "ü" * 32])
def test_a_traceparent_that_is_none_is_left_aside(asked, wrong):
    answer, event, spans = asked({"traceparent": wrong.encode("latin-1")})
    assert answer.status_code == 200 and event["trace.id"] != TRACE and len(spans) == 3


def test_a_failure_is_one_in_its_spans_and_a_refusal_is_none(asked, traced):
    engine, _, request = asked(prompt="good bad", stream=True)[2]
    assert not request.status.is_ok and not engine.status.is_ok
    assert request.attributes["error.type"] == engine.attributes["error.type"] == "internal"
    traced[0].forget_events()
    EXPORTER.clear()
    [request] = asked(prompt=" ")[2]
    assert request.attributes["http.response.status_code"] == 422
    assert request.attributes["error.type"] == "prompt_refused" and request.status.is_unset


def test_without_traces_the_event_names_the_trace_of_a_caller_who_has_one(shared_site, shared_client):
    shared_site.ask(shared_client)
    headers = {**shared_site.headers(), "traceparent": f"00-{TRACE}-{PARENT}-01"}
    shared_client.post("/generate", json={"prompt": "one"}, headers=headers)
    none, of_the_caller = shared_site.events()
    assert "trace.id" not in none and of_the_caller["trace.id"] == TRACE


def test_a_collector_that_is_away_changes_no_answer(site, free_port, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")  # after which the end waits for it no longer
    monitoring = site.config.monitoring.model_copy(update={"traces_url": f"http://127.0.0.1:{free_port}"})
    site.config = site.config.model_copy(update={"monitoring": monitoring})
    with site.client() as client:
        site.ready(client)
        assert site.ask(client).status_code == 200
    [event] = site.events()
    assert event["trace.id"]


def test_a_real_collector_gets_the_spans_of_a_request(site, collector):
    url, received = collector
    monitoring = site.config.monitoring.model_copy(update={"traces_url": f"{url}/"})
    site.config = site.config.model_copy(update={"monitoring": monitoring})
    with site.client() as client:
        site.ready(client)
        headers = {**site.headers(), "traceparent": f"00-{TRACE}-{PARENT}-01"}
        assert client.post("/generate", json={"prompt": "one two"}, headers=headers).status_code == 200
    site.until(lambda: received.exists() and received.read_text().endswith("\n"))
    resources = [one for line in received.read_text().splitlines() for one in json.loads(line)["resourceSpans"]]
    spans = [span for resource in resources for scope in resource["scopeSpans"] for span in scope["spans"]]
    assert sorted(span["name"] for span in spans) == ["POST /generate", "guard", "text_completion support-bot"]
    assert {span["traceId"] for span in spans} == {TRACE} and len({span["spanId"] for span in spans}) == 3
    (request,) = [span for span in spans if span["parentSpanId"] == PARENT]
    assert {span["parentSpanId"] for span in spans if span is not request} == {request["spanId"]}
    assert {"key": "service.name", "value": {"stringValue": "llmops"}} in resources[0]["resource"]["attributes"]


def test_models_that_cannot_end_keep_no_events_back_and_these_wait_for_no_collector(site, monkeypatch):
    ended, stop_models = [], app_module.Models.stop

    def note(kind, method, name):
        original = getattr(kind, method)
        monkeypatch.setattr(kind, method, lambda one: (original(one), ended.append(name)))

    async def fail(models):
        await stop_models(models)
        raise StateUnavailable("the database is away")

    monkeypatch.setattr(app_module.Models, "stop", fail)
    note(app_module.AlertThreads, "stop", "alerts"), note(Shipper, "stop", "events"), note(Traces, "close", "traces")
    with pytest.raises(StateUnavailable), site.client() as client:
        site.ready(client)
    assert ended == ["alerts", "events", "traces"]
