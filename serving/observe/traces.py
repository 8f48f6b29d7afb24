"""Traces by OpenTelemetry: one span per request, and below it one for each answer of an engine and one for the guard.

They are off unless `monitoring.traces_url` is set. A request with W3C's `traceparent` continues its caller's trace, and
is not traced if the caller does not sample it. Spans have fields of the event, never prompts or answers. They are made
from the event after the answer has left, and sent in the background.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from opentelemetry.context import Context
from opentelemetry.trace import (
    NoOpTracerProvider,
    Span,
    SpanKind,
    Status,
    StatusCode,
    Tracer,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.types import Scope

from serving.observe.exchange import Exchange, ServedAnswer

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor, TracerProvider

#: fields of the event that spans have, by their prefixes
_REQUEST_FIELDS = (
    "http.",
    "url.path",
    "error.type",
    "gen_ai.",
    "llmops.model.",
    "llmops.canary.",
    "llmops.queue",
    "llmops.time",
)
_ENGINE_FIELDS = ("gen_ai.operation.", "gen_ai.request.", "gen_ai.output.", "llmops.model.")
_GUARD_FIELDS = ("llmops.guard.",)

_propagator = TraceContextTextMapPropagator()


def read_caller_context(scope: Scope) -> Context:
    """Return the context of the caller's trace; empty without a valid `traceparent`."""
    names = (b"traceparent", b"tracestate")
    return _propagator.extract({k.decode(): v.decode("latin-1") for k, v in scope["headers"] if k in names}, Context())


class Traces:
    """The spans of requests. Without a provider there are no spans, and the trace of a request is its caller's."""

    def __init__(self, provider: TracerProvider | None = None) -> None:
        self._provider = provider
        self._tracer = (provider or NoOpTracerProvider()).get_tracer("llmops.serving")

    def begin(self, scope: Scope, wall_ns: int, start_ns: int) -> RequestTrace:
        """Begin a request's trace. Its start is given in ns since 1970, and by `time.perf_counter_ns`."""
        name = f"{scope['method']} {scope['path']}"
        span = self._tracer.start_span(name, read_caller_context(scope), SpanKind.SERVER, start_time=wall_ns)
        return RequestTrace(span, self._tracer, wall_ns - start_ns)

    def close(self) -> None:
        """Send the remaining spans. Blocks."""
        if self._provider:
            self._provider.shutdown()


@dataclass(frozen=True, slots=True)
class RequestTrace:
    """The spans of one request."""

    span: Span  #: the request's span; without a tracer, the caller's
    tracer: Tracer
    offset: int  #: difference of nanoseconds since 1970 and `time.perf_counter_ns`

    @property
    def id(self) -> str:
        """Return the id of the trace, 32 hex digits; empty if there is none."""
        context = self.span.get_span_context()
        return f"{context.trace_id:032x}" if context.is_valid else ""

    def end(self, fields: Mapping[str, Any], exchange: Exchange, end_ns: int) -> None:
        """End the request's span at `end_ns`, by `perf_counter_ns`. Make the spans below it from its event's fields."""
        if not self.span.is_recording():
            return
        for answer in exchange:
            self._add_engine_span(fields, answer)
        if begun := [answer for answer in exchange if answer.first_chunk_ns]:
            start_ns = min(answer.first_chunk_ns for answer in begun)
            guard = self._start_child("guard", _select_fields(fields, _GUARD_FIELDS), start_ns)
            guard.end(max(answer.ended_ns for answer in begun) + self.offset)
        self.span.set_attributes(_select_fields(fields, _REQUEST_FIELDS))
        if fields.get("http.response.status_code", 500) >= 500:
            self._mark_failed(self.span, fields)
        self.span.end(end_ns + self.offset)

    def _add_engine_span(self, fields: Mapping[str, Any], answer: ServedAnswer) -> None:
        attributes = _select_fields(fields, _ENGINE_FIELDS) | {"gen_ai.provider.name": "llmops"}
        if answer.finish_reason:
            attributes["gen_ai.response.finish_reasons"] = [answer.finish_reason]
        name = f"{fields.get('gen_ai.operation.name', 'text_completion')} {fields.get('gen_ai.request.model', '')}"
        if start_ns := answer.started_ns or answer.first_chunk_ns:
            span = self._start_child(name.strip(), attributes, start_ns)
            if not answer.finish_reason:
                self._mark_failed(span, fields)
            span.end(answer.ended_ns + self.offset)

    def _start_child(self, name: str, attributes: dict[str, Any], start_ns: int) -> Span:
        context = set_span_in_context(self.span, Context())
        return self.tracer.start_span(name, context, attributes=attributes, start_time=start_ns + self.offset)

    @staticmethod
    def _mark_failed(span: Span, fields: Mapping[str, Any]) -> None:
        span.set_attribute("error.type", fields.get("error.type", "internal"))
        span.set_status(Status(StatusCode.ERROR))


def make_traces(url: str, processor: SpanProcessor | None = None) -> Traces:
    """Return traces for the collector at a URL of OTLP over HTTP, without the path. An empty URL turns them off.

    Headers, certificates and the sampler come from OpenTelemetry's own variables, such as `OTEL_EXPORTER_OTLP_HEADERS`.
    A `processor` gets the spans in place of the collector.
    """
    if not url and processor is None:
        return Traces()
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    from llmops import __version__

    provider = TracerProvider(
        resource=Resource.create({"service.name": "llmops", "service.version": __version__}), shutdown_on_exit=False
    )
    provider.add_span_processor(
        processor or BatchSpanProcessor(OTLPSpanExporter(endpoint=f"{url.rstrip('/')}/v1/traces"))
    )
    return Traces(provider)


def _select_fields(fields: Mapping[str, Any], prefixes: tuple[str, ...]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name.startswith(prefixes) and value is not None}
