"""The kinds of events: the values of `event.dataset`."""

from __future__ import annotations

SERVING = "llmops.serving"
TEXT = "llmops.text"
SERVING_MODEL = "llmops.serving.model"
FEEDBACK = "llmops.feedback"
PIPELINE = "llmops.pipeline"
GATE = "llmops.gate"
CANARY = "llmops.canary"
ADMIN = "llmops.admin"
AUDIT = "llmops.audit"
GOVERNANCE = "llmops.governance"
HUB = "llmops.hub"
ERASURE = "llmops.erasure"
RETENTION = "llmops.retention"
ALERT = "llmops.alert"
SINK = "llmops.sink"
DRIFT = "llmops.drift"
DECAY = "llmops.decay"
IMPROVEMENT = "llmops.improvement"

#: dataset → meaning of its events
DATASETS: dict[str, str] = {
    SERVING: "a request to a model, answered or not",
    TEXT: "features of a prompt and its answer, for drift; the texts, if they are stored",
    SERVING_MODEL: "a version was loaded, an engine died, or a guard could not be loaded",
    FEEDBACK: "a user's rating or correction of an answer",
    PIPELINE: "a stage made an artifact, or failed",
    GATE: "a decision of the gate",
    CANARY: "a verdict on a canary or an A/B test",
    ADMIN: "a change of the served versions",
    AUDIT: "access granted or denied, changes of keys, and decisions of the review",
    GOVERNANCE: "a review of the champion",
    HUB: "a push of the champion to the Hub",
    ERASURE: "a person was forgotten",
    RETENTION: "old data was removed",
    ALERT: "an alert was raised, silenced or resolved",
    SINK: "a sink failed or recovered",
    DRIFT: "one comparison of recent requests with the reference",
    DECAY: "one figure of the champion's quality on one day",
    IMPROVEMENT: "the result of the weekly improvement",
}
