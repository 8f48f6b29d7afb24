"""Traces by OpenTelemetry: one span a request, below it one for each answer of an engine and one for the guard.

Off unless `monitoring.traces_url` is set. Where a request came with W3C's `traceparent`, its trace goes on, and is left
out where the caller leaves it out. Spans say what the event says, never what was asked or answered; they are made of
the event when the answer has left, and sent in the background.
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

from serving.observe.exchange import Exchange, Given

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor, TracerProvider

#: fields of the event that spans have, by how they begin
_REQUEST = (
    "http.",
    "url.path",
    "error.type",
    "gen_ai.",
    "llmops.model.",
    "llmops.canary.",
    "llmops.queue",
    "llmops.time",
)
_ENGINE = ("gen_ai.operation.", "gen_ai.request.", "llmops.model.")
_GUARD = ("llmops.guard.",)

_propagator = TraceContextTextMapPropagator()


def caller_context(scope: Scope) -> Context:
    """Return the trace that the caller's request is part of; empty without a valid `traceparent`."""
    names = (b"traceparent", b"tracestate")
    return _propagator.extract({k.decode(): v.decode("latin-1") for k, v in scope["headers"] if k in names}, Context())


class Traces:
    """Makes the spans of requests; without a provider there are none, and a request's trace is its caller's."""

    def __init__(self, provider: TracerProvider | None = None) -> None:
        self._provider = provider
        self._tracer = (provider or NoOpTracerProvider()).get_tracer("llmops.serving")

    def begin(self, scope: Scope, wall: int, begun: int) -> RequestTrace:
        """Begin the trace of a request that came at `wall`, ns since 1970, or `begun`, by `time.perf_counter_ns`."""
        name = f"{scope['method']} {scope['path']}"
        span = self._tracer.start_span(name, caller_context(scope), SpanKind.SERVER, start_time=wall)
        return RequestTrace(span, self._tracer, wall - begun)

    def close(self) -> None:
        """Send the spans that are left; blocks."""
        if self._provider:
            self._provider.shutdown()


@dataclass(frozen=True, slots=True)
class RequestTrace:
    """The spans of one request."""

    span: Span  #: of the request; without a tracer the caller's
    tracer: Tracer
    offset: int  #: from `time.perf_counter_ns` to nanoseconds since 1970

    @property
    def id(self) -> str:
        """Return the id of the trace, 32 hex digits; empty if there is none."""
        context = self.span.get_span_context()
        return f"{context.trace_id:032x}" if context.is_valid else ""

    def end(self, fields: Mapping[str, Any], exchange: Exchange, ended: int) -> None:
        """End the request's span at `ended`, by `perf_counter_ns`, and make those below it from its event's fields."""
        if not self.span.is_recording():
            return
        for given in exchange:
            self._engine(fields, given)
        if seen := [given for given in exchange if given.first]:
            begun, until = min(given.first for given in seen), max(given.ended for given in seen)
            self._below("guard", _chosen(fields, _GUARD), begun, until)
        self.span.set_attributes(_chosen(fields, _REQUEST))
        if fields.get("http.response.status_code", 500) >= 500:
            self._failed(self.span, fields)
        self.span.end(ended + self.offset)

    def _engine(self, fields: Mapping[str, Any], given: Given) -> None:
        attributes = _chosen(fields, _ENGINE) | {"gen_ai.provider.name": "llmops"}
        if given.finish_reason:
            attributes["gen_ai.response.finish_reasons"] = [given.finish_reason]
        name = f"{fields.get('gen_ai.operation.name', 'text_completion')} {fields.get('gen_ai.request.model', '')}"
        if begun := given.begun or given.first:
            span = self._below(name.strip(), attributes, begun, given.ended, end=False)
            if not given.finish_reason:
                self._failed(span, fields)
            span.end(given.ended + self.offset)

    def _below(self, name: str, attributes: dict[str, Any], begun: int, ended: int, end: bool = True) -> Span:
        context = set_span_in_context(self.span, Context())
        span = self.tracer.start_span(name, context, attributes=attributes, start_time=begun + self.offset)
        if end:
            span.end(ended + self.offset)
        return span

    @staticmethod
    def _failed(span: Span, fields: Mapping[str, Any]) -> None:
        span.set_attribute("error.type", fields.get("error.type", "internal"))
        span.set_status(Status(StatusCode.ERROR))


def traces_to(url: str, processor: SpanProcessor | None = None) -> Traces:
    """Make traces that go to a collector at the URL of OTLP over HTTP, without the path; none if it is empty.

    Headers, certificates and the sampler are read from OpenTelemetry's own variables, `OTEL_EXPORTER_OTLP_HEADERS` say.
    A `processor` takes the spans in place of the collector.
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


def _chosen(fields: Mapping[str, Any], beginnings: tuple[str, ...]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name.startswith(beginnings) and value is not None}
