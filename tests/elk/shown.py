"""What each panel shows of the known events: keys of its buckets, then its figures, checked by hand against `known`.

Percentiles are Elasticsearch's: of few values it interpolates between neighbours, so the 95th of 100, 200, 300 is 290.
"""

from __future__ import annotations

from typing import Any

from .known import FIRST, MS, SECOND

SHOWN: dict[tuple[str, str], list[tuple[Any, ...]]] = {
    ("llmops-requests", "Latency"): [(FIRST, 200 * MS, 290 * MS, 298 * MS), (SECOND, 600 * MS, 690 * MS, 698 * MS)],
    ("llmops-requests", "Requests by status"): [
        (FIRST, 200, 3),
        (FIRST, 500, 1),
        (SECOND, 200, 2),
        (SECOND, 401, 1),
        (SECOND, 429, 1),
    ],
    ("llmops-requests", "Share of requests that fail"): [
        (FIRST, "answered", 3),
        (FIRST, "failed", 1),
        (SECOND, "answered", 2),
    ],
    ("llmops-requests", "Errors"): [
        ("EngineError", "/generate", 1),
        ("rate_limited", "/generate", 1),
        ("unauthorized", "/generate", 1),
    ],
    ("llmops-requests", "Tokens"): [(FIRST, 60.0, 120.0), (SECOND, 20.0, 40.0)],
    ("llmops-requests", "Time to first token"): [(FIRST, 20 * MS, 29 * MS), (SECOND, 60 * MS, 69 * MS)],
    ("llmops-requests", "Time in the queue"): [(FIRST, 2.9 * MS, 3 * MS), (SECOND, 6.9 * MS, 7 * MS)],
    ("llmops-requests", "Answers cut by the guard"): [(SECOND, "secret", 1)],
    ("llmops-requests", "Versions side by side"): [
        ("v1", "champion", 3, 290 * MS, 20 * MS, 40.0, 2),
        ("v2", "canary", 2, 690 * MS, 60 * MS, 20.0, 1),
    ],
    ("llmops-requests", "Latency by version"): [(FIRST, "v1", 290 * MS), (SECOND, "v2", 690 * MS)],
    ("llmops-requests", "Canary and champion"): [
        ("champion", "answered", 3),
        ("champion", "failed", 1),
        ("canary", "answered", 2),
    ],
    ("llmops-requests", "Answers with passages"): [
        (FIRST, "with passages", 1),
        (FIRST, "without", 2),
        (SECOND, "refused", 1),
        (SECOND, "with passages", 1),
    ],
    ("llmops-requests", "Passages that are used most"): [("p1", 2), ("p2", 1)],
    ("llmops-requests", "Pages that are used most"): [("help.html", 2)],
    ("llmops-quality", "Feedback"): [(FIRST, "up", 2), (FIRST, "down", 1), (SECOND, "down", 1)],
    ("llmops-quality", "Feedback by version"): [("v1", "up", 2), ("v1", "down", 1), ("v2", "down", 1)],
    ("llmops-quality", "F1 on the fixed test"): [(FIRST, "v1", 0.75), (SECOND, "v1", 0.5)],
    ("llmops-quality", "F1 on what people corrected"): [(SECOND, "v1", 0.25)],
    ("llmops-quality", "Accuracy on the fixed test"): [(SECOND, "v2", 0.875)],
    ("llmops-quality", "Accuracy on what people corrected"): [(FIRST, "v1", 0.625)],
    ("llmops-quality", "Perplexity"): [(SECOND, "v1", 12.5), (SECOND, "v2", 10.5)],
    ("llmops-quality", "Figures of live requests"): [(SECOND, "up_share", 0.75), (SECOND, "refusals", 0.125)],
    ("llmops-quality", "Slopes"): [("v1", "f1", -0.25, -0.5, -0.125, 100.0)],
    ("llmops-quality", "Drift of prompts"): [(FIRST, "words", 0.125), (SECOND, "topics", 0.75), (SECOND, "words", 0.5)],
    ("llmops-quality", "Drift of answers"): [(SECOND, "words", 0.25)],
    ("llmops-quality", "What has drifted"): [
        ("topics", "psi", 1, 2.0, 0.0625, 1.5),
        ("words", "psi", 1, 1.0, 0.03125, 1.0),
    ],
    ("llmops-quality", "Topics that drift"): [("returns", 2), ("taxes", 1)],
    ("llmops-quality", "Languages"): [(FIRST, "en", 2), (SECOND, "de", 1)],
    ("llmops-quality", "Length of prompts, unknown words and fit with the training data"): [
        (FIRST, 5.0, 1.25, 0.25),
        (SECOND, 10.0, 2.5, 0.25),
    ],
    ("llmops-quality", "Answers that decline"): [(FIRST, "false", 1), (FIRST, "true", 1), (SECOND, "false", 1)],
    ("llmops-quality", "Topics of prompts"): [("orders", 2), ("returns", 2)],
    ("llmops-quality", "Improvement"): [(SECOND, 10.0, 6.0, 1.0, 3.0)],
    ("llmops-governance", "Reviews"): [("v1", "failed", 1), ("v1", "passed", 1)],
    ("llmops-governance", "Attacks that succeed and answers that are flagged"): [
        (FIRST, 0.125, 0.0625),
        (SECOND, 0.5, 0.25),
    ],
    ("llmops-governance", "Decisions of the gate"): [
        ("v2", "promoted", "f1", 0.75, 0.5, 0.25, 0.0, 0.5),
        ("v3", "rejected", "f1", 0.25, 0.5, -0.25, -0.5, 0.0),
    ],
    ("llmops-governance", "Canaries and A/B tests"): [("v2", "canary", "pulled", 0.125)],
    ("llmops-governance", "What serves, and who changed it"): [("promote", "ann", 2), ("rollback", "bob", 1)],
    ("llmops-governance", "Who was not let in"): [(FIRST, "no key", 3.0), (SECOND, "no key", 2.0)],
    ("llmops-governance", "Erasures and old data"): [(FIRST, 3.0, 1.0, 0.0), (SECOND, 0.0, 0.0, 4096.0)],
    ("llmops-governance", "Copies on the Hub"): [("shop/bot", "true", 1), ("shop/data", "false", 1)],
    ("llmops-operations", "Stages that were run"): [(FIRST, "success", 2), (SECOND, "failure", 1)],
    ("llmops-operations", "How long stages take"): [
        ("train", 2, 40000 * MS, 60000 * MS, 2),
        ("clean", 1, 5000 * MS, 5000 * MS, 1),
    ],
    ("llmops-operations", "Stages that failed"): [("train", "CUDA", 1, 2.0)],
    ("llmops-operations", "Versions that were loaded"): [
        ("v1", "success", 1, 3000 * MS),
        ("v2", "failure", 1, 9000 * MS),
    ],
    ("llmops-operations", "Alerts"): [(FIRST, "latency", 1), (SECOND, "drift", 1), (SECOND, "latency", 1)],
    ("llmops-operations", "Alerts and what was measured"): [
        ("latency", "critical", "(missing value)", 2, 2.5, 1.0),
        ("drift", "warning", "prompt.words", 1, 1.25, 1.0),
    ],
    ("llmops-operations", "Events that wait for a sink"): [
        (FIRST, "elasticsearch", 900.0),
        (SECOND, "elasticsearch", 0.0),
    ],
    ("llmops-operations", "Events that a sink refused"): [
        (FIRST, "elasticsearch", 2.0),
        (SECOND, "elasticsearch", 2.0),
    ],
    ("llmops-operations", "Events by kind"): [
        (FIRST, "llmops.serving", 4),
        (FIRST, "llmops.feedback", 3),
        (FIRST, "llmops.alert", 2),
        (FIRST, "llmops.audit", 2),
        (FIRST, "llmops.decay", 2),
        (FIRST, "llmops.gate", 2),
        (FIRST, "llmops.pipeline", 2),
        (FIRST, "llmops.sink", 2),
        (FIRST, "llmops.text", 2),
        (FIRST, "llmops.admin", 1),
        (FIRST, "llmops.drift", 1),
        (FIRST, "llmops.erasure", 1),
        (FIRST, "llmops.governance", 1),
        (FIRST, "llmops.hub", 1),
        (FIRST, "llmops.hub_dataset", 1),
        (FIRST, "llmops.serving.model", 1),
        (SECOND, "llmops.decay", 7),
        (SECOND, "llmops.serving", 4),
        (SECOND, "llmops.drift", 3),
        (SECOND, "llmops.admin", 2),
        (SECOND, "llmops.alert", 2),
        (SECOND, "llmops.audit", 1),
        (SECOND, "llmops.canary", 1),
        (SECOND, "llmops.feedback", 1),
        (SECOND, "llmops.governance", 1),
        (SECOND, "llmops.improvement", 1),
        (SECOND, "llmops.pipeline", 1),
        (SECOND, "llmops.retention", 1),
        (SECOND, "llmops.serving.model", 1),
        (SECOND, "llmops.sink", 1),
        (SECOND, "llmops.text", 1),
    ],
}
