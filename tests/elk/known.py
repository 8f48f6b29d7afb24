"""Known events of every dataset: what the panels count."""

from __future__ import annotations

from typing import Any

from llmops.monitoring import datasets as of
from llmops.monitoring.events import build

FIRST, SECOND = "2026-03-02", "2026-03-03"  #: two days
MS = 1_000_000  #: nanoseconds


def _rows(prefix: str, names: str, *rows: tuple[Any, ...], **all_of_them: Any) -> list[dict[str, Any]]:
    """Events in a table: the day of each, then the fields of these names; None: it has no such field."""
    events = []
    for number, (day, *values) in enumerate(rows):
        fields = {f"{prefix}{name}": value for name, value in zip(names.split(), values, strict=True)}
        said = {name: value for name, value in (all_of_them | fields).items() if value is not None}
        events.append({"@timestamp": f"{day}T12:00:0{number}.000Z", **said})
    return events


def _requests() -> list[dict[str, Any]]:
    found = []
    for day, minute, ms, status, *generated in (
        (FIRST, 0, 100, 200, "v1", "champion", 10, 20, 10, "aaaa", None),
        (FIRST, 1, 200, 200, "v1", "champion", 20, 40, 20, "aaaa", ["p1", "p2"]),
        (FIRST, 2, 300, 200, "v1", "champion", 30, 60, 30, "bbbb", None),
        (FIRST, 3, 400, 500),
        (SECOND, 0, 500, 200, "v2", "canary", 10, 10, 50, "bbbb", ["p1"]),
        (SECOND, 1, 700, 200, "v2", "canary", 10, 30, 70, "bbbb", None),
        (SECOND, 2, 1, 429),
        (SECOND, 3, 2, 401),
    ):
        said: dict[str, Any] = {
            "@timestamp": f"{day}T10:{minute:02}:00.000Z",
            "event.duration": ms * MS,
            "event.outcome": "failure" if status >= 400 else "success",
            "http.request.id": f"request-{day}-{minute}",
            "http.request.method": "POST",
            "http.response.status_code": status,
            "url.path": "/generate",
            "client.ip": "2001:db8::1",
            "user.roles": ["user"],
        }
        if generated:
            version, side, tokens_in, tokens_out, first_ms, key, passages = generated
            said |= {
                "llmops.model.version": version,
                "llmops.canary.side": side,
                "gen_ai.operation.name": "text_completion",
                "gen_ai.request.model": "support-bot",
                "gen_ai.request.temperature": 0.5,
                "gen_ai.request.stream": False,
                "gen_ai.response.finish_reasons": ["stop"],
                "gen_ai.usage.input_tokens": tokens_in,
                "gen_ai.usage.output_tokens": tokens_out,
                "llmops.time_to_first_token": first_ms * MS,
                "llmops.queue_time": first_ms * MS // 10,
                "llmops.key.prefix": key,
                "llmops.guard.verdict": "passed",
            } | ({"llmops.retrieval.passages": passages} if passages else {})
        found.append(said)
    found[3] |= {"error.type": "EngineError", "error.message": "it fell", "llmops.canary.side": "champion"}
    found[5] |= {"llmops.guard.verdict": "cut", "llmops.guard.rules": ["secret"]}
    found[6] |= {"error.type": "rate_limited"}
    found[7] |= {"error.type": "unauthorized", "client.address": "unix"}
    return found


EVENTS: dict[str, list[dict[str, Any]]] = {
    of.SERVING: _requests(),
    of.TEXT: _rows(
        "llmops.",
        "prompt.language prompt.characters prompt.words prompt.unknown_share answer.words answer.refusal prompt.topics",
        (FIRST, "en", 20, 4, 0.0, 8, False, ["orders"]),
        (FIRST, "en", 30, 6, 0.5, 12, True, ["orders", "returns"]),
        (SECOND, "de", 50, 10, 0.25, 20, False, ["returns"]),
        **{
            "http.request.id": "request",
            "llmops.model.version": "v1",
            "llmops.prompt.script": "Latin",
            "llmops.prompt.text": "Wo ist mein Paket? " * 3000,  # longer than a keyword may be
        },
    ),
    of.LOADS: _rows(
        "",
        "event.action event.outcome llmops.model.version event.duration",
        (FIRST, "load", "success", "v1", 3_000 * MS),
        (SECOND, "load", "failure", "v2", 9_000 * MS),
    ),
    of.FEEDBACK: _rows(
        "llmops.",
        "model.version feedback.rating",
        (FIRST, "v1", "up"),
        (FIRST, "v1", "up"),
        (FIRST, "v1", "down"),
        (SECOND, "v2", "down"),
        **{"event.action": "feedback", "event.outcome": "success"},
    ),
    of.PIPELINE: _rows(
        "",
        "event.action event.outcome event.duration llmops.run llmops.attempt error.type llmops.metrics",
        (FIRST, "train", "success", 60_000 * MS, "r1", 1, None, {"loss": 0.5}),
        (SECOND, "train", "failure", 20_000 * MS, "r2", 2, "CUDA", None),
        (FIRST, "clean", "success", 5_000 * MS, "r1", None, None, {"loss": {"of": "another shape"}}),
    ),
    of.GATE: _rows(
        "llmops.",
        "gate.outcome model.version gate.candidate gate.opponent_value gate.difference gate.low gate.high",
        (FIRST, "promoted", "v2", 0.75, 0.5, 0.25, 0.0, 0.5),
        (FIRST, "rejected", "v3", 0.25, 0.5, -0.25, -0.5, 0.0),
        **{
            "event.action": "gate",
            "llmops.gate.metric": "f1",
            "llmops.gate.reasons": ["x" * 40_000],  # longer than Lucene takes as one term
        },
    ),
    of.CANARY: _rows(
        "llmops.",
        "model.version canary.kind canary.outcome canary.share canary.numbers canary.started",
        (SECOND, "v2", "canary", "pulled", 0.125, {"canary": {"requests": 2}}, f"{FIRST}T00:00:00.000Z"),
        **{"event.action": "canary", "event.outcome": "success"},
    ),
    of.ADMIN: _rows(
        "",
        "event.action user.name llmops.aliases",
        (FIRST, "promote", "ann", {"champion": "v1"}),
        (SECOND, "promote", "ann", {"champion": {"is": "v2"}}),
        (SECOND, "rollback", "bob", None),
        **{"event.outcome": "success"},
    ),
    of.AUDIT: _rows(
        "",
        "event.action event.outcome llmops.audit.count event.reason",
        (FIRST, "allow", "success", 7, None),
        (FIRST, "deny", "failure", 3, "no key"),
        (SECOND, "deny", "failure", 2, "no key"),
    ),
    of.GOVERNANCE: _rows(
        "llmops.governance.",
        "verdict attack_success_rate flagged_answers counts",
        (FIRST, "passed", 0.125, 0.0625, {"high": 1}),
        (SECOND, "failed", 0.5, 0.25, {"high": 1}),
        **{"event.action": "review", "event.outcome": "success", "llmops.model.version": "v1"},
    ),
    of.HUB: _rows("llmops.hub.", "repo equal failed", (FIRST, "shop/bot", True, {"v1": "?"})),
    of.HUB_DATASET: _rows("llmops.hub.", "repo equal", (FIRST, "shop/data", False)),
    of.ERASURE: _rows("llmops.erasure.", "documents remaining", (FIRST, 3, 1)),
    of.RETENTION: _rows("llmops.retention.", "freed artifacts", (SECOND, 4096, 2)),
    of.ALERT: _rows(
        "",
        "rule.name llmops.alert.state llmops.alert.severity llmops.alert.value llmops.alert.id llmops.alert.subject",
        (FIRST, "latency", "raised", "critical", 1.5, "a1", None),
        (FIRST, "latency", "resolved", "critical", 0.5, "a1", None),
        (SECOND, "latency", "raised", "critical", 2.5, "a2", None),
        (SECOND, "drift", "raised", "warning", 1.25, "a3", "prompt.words"),
        **{"event.kind": "alert", "llmops.alert.bound": 1.0},
    ),
    of.SINK: _rows(
        "",
        "event.action event.outcome llmops.sink.waiting llmops.sink.rejected",
        (FIRST, "fails", "failure", 100, 0),
        (FIRST, "fails", "failure", 900, 2),
        (SECOND, "takes", "success", 0, 2),
        **{"llmops.sink.name": "elasticsearch"},
    ),
    of.DRIFT: _rows(
        "llmops.drift.",
        "side feature statistic effect drifted q_value windows topics since",
        (FIRST, "prompt", "words", 0.25, 0.125, False, 0.5, 0, [], f"{FIRST}T00:00:00.000Z"),
        (SECOND, "prompt", "words", 1.0, 0.5, True, 0.03125, 1, ["returns"], f"{SECOND}T00:00:00.000Z"),
        (SECOND, "prompt", "topics", 1.5, 0.75, True, 0.0625, 2, ["returns", "taxes"], f"{SECOND}T00:00:00.000Z"),
        (SECOND, "answer", "words", 0.5, 0.25, False, 0.25, 0, [], f"{SECOND}T00:00:00.000Z"),
        **{"llmops.model.version": "v1", "llmops.drift.test": "psi", "llmops.drift.requests": 500},
    ),
    of.DECAY: _rows(
        "llmops.",
        "model.version decay.set decay.metric decay.value decay.items decay.slope decay.slope_low decay.slope_high",
        (FIRST, "v1", "fixed", "f1", 0.75, 100, None, None, None),
        (SECOND, "v1", "fixed", "f1", 0.5, 100, -0.25, -0.5, -0.125),
        (SECOND, "v1", "fixed", "perplexity", 12.5, 100, None, None, None),
        (SECOND, "v2", "fixed", "perplexity", 10.5, 100, None, None, None),
        (SECOND, "v1", "fresh", "f1", 0.25, 100, None, None, None),
        (SECOND, "v2", "fixed", "accuracy", 0.875, 100, None, None, None),
        (FIRST, "v1", "fresh", "accuracy", 0.625, 100, None, None, None),
        (SECOND, "v1", "live", "up_share", 0.75, 40, None, None, None),
        (SECOND, "v1", "live", "refusals", 0.125, 40, None, None, None),
    ),
    of.IMPROVEMENT: _rows(
        "llmops.improvement.",
        "corrections accepted refused waiting since",
        (SECOND, 10, 6, 1, 3, f"{FIRST}T00:00:00.000Z"),
        **{"event.action": "improve", "event.outcome": "success"},
    ),
}


def known() -> list[dict[str, Any]]:
    """All of them, as they are emitted, with ids that tell them apart."""
    return [
        build(dataset, {"event.id": f"{dataset}-{n}", **event})
        for dataset, several in EVENTS.items()
        for n, event in enumerate(several)
    ]
