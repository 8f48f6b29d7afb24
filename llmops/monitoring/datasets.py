"""The kinds of events: the values of `event.dataset`."""

from __future__ import annotations

SERVING = "llmops.serving"
TEXT = "llmops.text"
LOADS = "llmops.serving.model"
FEEDBACK = "llmops.feedback"
PIPELINE = "llmops.pipeline"
GATE = "llmops.gate"
CANARY = "llmops.canary"
ADMIN = "llmops.admin"
AUDIT = "llmops.audit"
GOVERNANCE = "llmops.governance"
HUB = "llmops.hub"
HUB_DATASET = "llmops.hub_dataset"
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
    TEXT: "features of a prompt and its answer, by which drift is seen; the texts where they are kept",
    LOADS: "a version that is loaded to serve, an engine that dies, a guard that cannot be loaded",
    FEEDBACK: "what a user thinks of an answer",
    PIPELINE: "a stage that has made an artifact, or failed",
    GATE: "a decision of the gate",
    CANARY: "a verdict on a canary or an A/B test",
    ADMIN: "a change of what serves",
    AUDIT: "who was let in, and who not; what was done with keys",
    GOVERNANCE: "a review of the champion",
    HUB: "what the Hub has of the models",
    HUB_DATASET: "what the Hub has of the data",
    ERASURE: "a person who was forgotten",
    RETENTION: "old data that was removed",
    ALERT: "an alert that is raised, or over",
    SINK: "a sink that fails, or takes events again",
    DRIFT: "one comparison of recent requests with the reference",
    DECAY: "one figure of the champion's quality, of one day",
    IMPROVEMENT: "what the weekly improvement did with what users said",
}
