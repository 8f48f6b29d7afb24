"""Fields of every event, and fields of several kinds of events."""

from __future__ import annotations

from llmops.events.datasets import (
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
    IMPROVEMENT,
    PIPELINE,
    RETENTION,
    SERVING,
    SERVING_MODEL,
    TEXT,
)
from llmops.events.fields.field import Field

_CALLER_DATASETS = (SERVING, TEXT, FEEDBACK, AUDIT, ADMIN)
_MODEL_DATASETS = (
    SERVING,
    TEXT,
    SERVING_MODEL,
    FEEDBACK,
    GATE,
    CANARY,
    ADMIN,
    GOVERNANCE,
    DRIFT,
    DECAY,
    IMPROVEMENT,
    PIPELINE,
)


FIELDS: tuple[Field, ...] = (
    # Every event.
    Field("@timestamp", "date", "time, UTC; for a request, its arrival", ()),
    Field("ecs.version", "keyword", "version of ECS", ()),
    Field("event.id", "keyword", "unique id; an event that is delivered twice has the same", ()),
    Field("event.dataset", "keyword", "kind of event", ()),
    Field("service.name", "keyword", "`llmops`", ()),
    Field("event.action", "keyword", "what was done", ()),
    Field("event.outcome", "keyword", "`success` or `failure`", ()),
    Field("event.reason", "keyword", "reason, in words", ()),
    Field("message", "text", "what happened, for people", ()),
    Field("error.type", "keyword", "kind of error", ()),
    Field("error.message", "text", "error, in words", ()),
    # Several kinds of events.
    Field("event.duration", "long", "duration in nanoseconds", (SERVING, SERVING_MODEL, PIPELINE)),
    Field("event.kind", "keyword", "`alert`", (ALERT,)),
    Field("event.category", "keyword", "ECS category of the event", (AUDIT,)),
    Field("event.start", "date", "first of the counted decisions", (AUDIT,)),
    Field("event.end", "date", "last of the counted decisions", (AUDIT,)),
    Field("http.request.id", "keyword", "id of the request, also in its answer's X-Request-ID", (*_CALLER_DATASETS,)),
    Field(
        "gen_ai.conversation.id",
        "keyword",
        "id of the conversation, if the caller sends one: `X-Session-ID` or `metadata.session_id`",
        (SERVING, TEXT, FEEDBACK),
        True,
    ),
    Field("http.request.method", "keyword", "", (SERVING, AUDIT)),
    Field("http.response.status_code", "long", "499: the caller left before the end", (SERVING,)),
    Field("url.path", "keyword", "the route", (SERVING, AUDIT)),
    Field("client.ip", "ip", "address of the caller", (SERVING, AUDIT, ADMIN), True),
    Field("client.address", "keyword", "the same, if it is not an IP address", (SERVING, AUDIT, ADMIN), True),
    Field("user.name", "keyword", "who did it", (AUDIT, ADMIN, ERASURE, RETENTION, HUB, ALERT), True),
    Field("user.roles", "keyword", "roles of the key", (*_CALLER_DATASETS,)),
    Field("llmops.key.prefix", "keyword", "prefix of the key", (*_CALLER_DATASETS,), True),
    Field("llmops.model.name", "keyword", "the model", (GATE, GOVERNANCE, DECAY, DRIFT)),
    Field("llmops.model.version", "keyword", "the version of the model", (*_MODEL_DATASETS,)),
    Field("llmops.run", "keyword", "the orchestrator's run", (PIPELINE, GATE, ALERT)),
    Field("llmops.attempt", "long", "number of the try", (PIPELINE, ALERT)),
)
