"""Fields of every event, and fields of several kinds of events."""

from __future__ import annotations

from llmops.monitoring.datasets import (
    ADMIN,
    ALERT,
    AUDIT,
    CANARY,
    DECAY,
    DRIFT,
    ERASURE,
    FEEDBACK,
    GATE,
    GOVERNANCE,
    HUB,
    HUB_DATASET,
    IMPROVEMENT,
    LOADS,
    PIPELINE,
    RETENTION,
    SERVING,
    TEXT,
)
from llmops.monitoring.fields.field import Field

_CALLERS = (SERVING, TEXT, FEEDBACK, AUDIT, ADMIN)
_MODELS = (SERVING, TEXT, LOADS, FEEDBACK, GATE, CANARY, ADMIN, GOVERNANCE, DRIFT, DECAY, IMPROVEMENT, PIPELINE)


FIELDS: tuple[Field, ...] = (
    # Every event.
    Field("@timestamp", "date", "when it was, UTC; of a request, when it came", ()),
    Field("ecs.version", "keyword", "the version of ECS that the names are of", ()),
    Field("event.id", "keyword", "tells events apart; one that is delivered twice has it twice", ()),
    Field("event.dataset", "keyword", "what kind of event it is", ()),
    Field("service.name", "keyword", "`llmops`", ()),
    Field("event.action", "keyword", "what was done", ()),
    Field("event.outcome", "keyword", "`success` or `failure`", ()),
    Field("event.reason", "keyword", "why, in words", ()),
    Field("message", "text", "what happened, for a person", ()),
    Field("error.type", "keyword", "what went wrong, a name", ()),
    Field("error.message", "text", "what went wrong, in words", ()),
    # Several kinds of events.
    Field("event.duration", "long", "how long it took, in nanoseconds", (SERVING, LOADS, PIPELINE)),
    Field("event.kind", "keyword", "`alert`", (ALERT,)),
    Field("event.category", "keyword", "ECS' kind of event", (AUDIT,)),
    Field("event.start", "date", "first of the decisions that are counted", (AUDIT,)),
    Field("event.end", "date", "last of the decisions that are counted", (AUDIT,)),
    Field("http.request.id", "keyword", "of the request; its answer has it in X-Request-ID", (*_CALLERS,)),
    Field("http.request.method", "keyword", "", (SERVING, AUDIT)),
    Field("http.response.status_code", "long", "499: the caller left before the end", (SERVING,)),
    Field("url.path", "keyword", "the route", (SERVING, AUDIT)),
    Field("client.ip", "ip", "where a request came from", (SERVING, AUDIT, ADMIN), True),
    Field("client.address", "keyword", "the same, where it is no IP address", (SERVING, AUDIT, ADMIN), True),
    Field("user.name", "keyword", "who did it", (AUDIT, ADMIN, ERASURE, RETENTION, HUB, HUB_DATASET, ALERT), True),
    Field("user.roles", "keyword", "of the key", (*_CALLERS,)),
    Field("llmops.key.prefix", "keyword", "which key, by the start of its name", (*_CALLERS,), True),
    Field("llmops.model.name", "keyword", "the model", (GATE, GOVERNANCE, DECAY, DRIFT)),
    Field("llmops.model.version", "keyword", "the version of the model", (*_MODELS,)),
    Field("llmops.run", "keyword", "the run of the orchestrator", (PIPELINE, GATE, ALERT)),
    Field("llmops.attempt", "long", "which try it was", (PIPELINE, ALERT)),
)
