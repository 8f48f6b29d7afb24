"""Known events of every dataset: what the panels count."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmops.monitoring import datasets as of
from llmops.monitoring.events import build

FIRST, SECOND = "2026-03-02", "2026-03-03"  #: two days
MS = 1_000_000  #: nanoseconds


def _request(day: str, minute: int, ms: int, status: int = 200, **more: Any) -> Mapping[str, Any]:
    said = {
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
    return said | {name.replace("__", "."): value for name, value in more.items()}


def _generated(
    version: str, side: str, tokens: tuple[int, int], first_ms: int, key: str, **more: Any
) -> dict[str, Any]:
    said = {
        "llmops.model.version": version,
        "llmops.canary.side": side,
        "gen_ai.operation.name": "text_completion",
        "gen_ai.request.model": "support-bot",
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.stream": False,
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.usage.input_tokens": tokens[0],
        "gen_ai.usage.output_tokens": tokens[1],
        "llmops.time_to_first_token": first_ms * MS,
        "llmops.queue_time": first_ms * MS // 10,
        "llmops.key.prefix": key,
        "llmops.guard.verdict": "passed",
    }
    return said | more


def _found(*passages: str) -> dict[str, Any]:
    return {
        "llmops.retrieval.outcome": "found",
        "llmops.retrieval.passages": list(passages),
        "llmops.retrieval.locations": ["help.html"],
        "llmops.retrieval.likeness": 0.75,
    }


_REQUESTS = [
    _request(FIRST, 0, 100) | _generated("v1", "champion", (10, 20), 10, "aaaa"),
    _request(FIRST, 1, 200) | _generated("v1", "champion", (20, 40), 20, "aaaa", **_found("p1", "p2")),
    _request(FIRST, 2, 300) | _generated("v1", "champion", (30, 60), 30, "bbbb"),
    _request(FIRST, 3, 400, 500)
    | {"error.type": "EngineError", "error.message": "it fell", "llmops.canary.side": "champion"},
    _request(SECOND, 0, 500) | _generated("v2", "canary", (10, 10), 50, "bbbb", **_found("p1")),
    _request(SECOND, 1, 700)
    | _generated(
        "v2", "canary", (10, 30), 70, "bbbb", **{"llmops.guard.verdict": "cut", "llmops.guard.rules": ["secret"]}
    )
    | {"llmops.retrieval.outcome": "refused", "llmops.retrieval.passages": []},
    _request(SECOND, 2, 1, 429) | {"error.type": "rate_limited"},
    _request(SECOND, 3, 2, 401) | {"error.type": "unauthorized", "client.address": "unix"},
]


def _text(
    day: str, n: int, language: str, words: int, unknown: float, refusal: bool, topics: list[str]
) -> dict[str, Any]:
    return {
        "@timestamp": f"{day}T11:00:0{n}.000Z",
        "http.request.id": f"request-{day}-{n}",
        "llmops.model.version": "v1",
        "llmops.prompt.characters": words * 5,
        "llmops.prompt.words": words,
        "llmops.prompt.language": language,
        "llmops.prompt.script": "Latin",
        "llmops.prompt.unknown_share": unknown,
        "llmops.prompt.topics": topics,
        "llmops.prompt.fit": words / 4,
        "llmops.answer.words": 2 * words,
        "llmops.answer.refusal": refusal,
        "llmops.prompt.text": "Wo ist mein Paket? " * 3000,  # longer than a keyword may be
    }


def _drift(
    day: str,
    feature: str,
    effect: float,
    drifted: bool,
    q: float,
    windows: int,
    topics: list[str],
    side: str = "prompt",
) -> dict[str, Any]:
    return {
        "@timestamp": f"{day}T12:00:00.000Z",
        "llmops.model.version": "v1",
        "llmops.drift.feature": feature,
        "llmops.drift.side": side,
        "llmops.drift.test": "psi",
        "llmops.drift.statistic": 2 * effect,
        "llmops.drift.effect": effect,
        "llmops.drift.q_value": q,
        "llmops.drift.drifted": drifted,
        "llmops.drift.windows": windows,
        "llmops.drift.requests": 500,
        "llmops.drift.since": f"{day}T00:00:00.000Z",
        "llmops.drift.topics": topics,
    }


def _decay(day: str, metric: str, value: float, version: str = "v1", **more: Any) -> dict[str, Any]:
    said = {
        "@timestamp": f"{day}T13:00:00.000Z",
        "llmops.model.version": version,
        "llmops.decay.metric": metric,
        "llmops.decay.set": "fixed",
        "llmops.decay.value": value,
        "llmops.decay.items": 100,
    }
    return said | {f"llmops.decay.{name}": value for name, value in more.items()}


def _at(day: str, action: str, outcome: str = "success", **more: Any) -> dict[str, Any]:
    said = {"@timestamp": f"{day}T14:00:00.000Z", "event.action": action, "event.outcome": outcome}
    return said | {name.replace("__", "."): value for name, value in more.items()}


def _gate(outcome: str, version: str, candidate: float, difference: float) -> dict[str, Any]:
    return _at(FIRST, "gate") | {
        "llmops.model.version": version,
        "llmops.gate.outcome": outcome,
        "llmops.gate.metric": "f1",
        "llmops.gate.candidate": candidate,
        "llmops.gate.opponent_value": candidate - difference,
        "llmops.gate.difference": difference,
        "llmops.gate.low": difference - 0.25,
        "llmops.gate.high": difference + 0.25,
        "llmops.gate.reasons": ["x" * 40_000],  # longer than Lucene takes as one term
    }


def _alert(day: str, name: str, state: str, severity: str, value: float, id: str, **more: Any) -> dict[str, Any]:
    said = {
        "@timestamp": f"{day}T15:00:00.000Z",
        "event.kind": "alert",
        "rule.name": name,
        "llmops.alert.id": id,
        "llmops.alert.state": state,
        "llmops.alert.severity": severity,
        "llmops.alert.value": value,
        "llmops.alert.bound": 1.0,
    }
    return said | {f"llmops.alert.{key}": value for key, value in more.items()}


EVENTS: dict[str, list[Mapping[str, Any]]] = {
    of.SERVING: _REQUESTS,
    of.TEXT: [
        _text(FIRST, 1, "en", 4, 0.0, False, ["orders"]),
        _text(FIRST, 2, "en", 6, 0.5, True, ["orders", "returns"]),
        _text(SECOND, 1, "de", 10, 0.25, False, ["returns"]),
    ],
    of.LOADS: [
        _at(FIRST, "load", llmops__model__version="v1", event__duration=3_000 * MS),
        _at(SECOND, "load", "failure", llmops__model__version="v2", event__duration=9_000 * MS),
    ],
    of.FEEDBACK: [
        _at(day, "feedback", llmops__model__version=version, llmops__feedback__rating=rating)
        for day, version, rating in (
            (FIRST, "v1", "up"),
            (FIRST, "v1", "up"),
            (FIRST, "v1", "down"),
            (SECOND, "v2", "down"),
        )
    ],
    of.PIPELINE: [
        _at(
            FIRST,
            "train",
            event__duration=60_000 * MS,
            llmops__run="r1",
            llmops__attempt=1,
            llmops__metrics={"loss": 0.5},
        ),
        _at(
            SECOND,
            "train",
            "failure",
            event__duration=20_000 * MS,
            llmops__run="r2",
            llmops__attempt=2,
            error__type="CUDA",
        ),
        _at(
            FIRST,
            "clean",
            event__duration=5_000 * MS,
            llmops__run="r1",
            llmops__metrics={"loss": {"of": "another shape"}},
        ),
    ],
    of.GATE: [_gate("promoted", "v2", 0.75, 0.25), _gate("rejected", "v3", 0.25, -0.25)],
    of.CANARY: [
        _at(SECOND, "canary", llmops__model__version="v2")
        | {
            "llmops.canary.kind": "canary",
            "llmops.canary.outcome": "pulled",
            "llmops.canary.share": 0.125,
            "llmops.canary.numbers": {"canary": {"requests": 2}},
            "llmops.canary.started": f"{FIRST}T00:00:00.000Z",
        },
    ],
    of.ADMIN: [
        _at(FIRST, "promote", user__name="ann", llmops__aliases={"champion": "v1"}),
        _at(SECOND, "promote", user__name="ann", llmops__aliases={"champion": {"is": "v2"}}),
        _at(SECOND, "rollback", user__name="bob"),
    ],
    of.AUDIT: [
        _at(FIRST, "allow", llmops__audit__count=7),
        _at(FIRST, "deny", "failure", llmops__audit__count=3, event__reason="no key"),
        _at(SECOND, "deny", "failure", llmops__audit__count=2, event__reason="no key"),
    ],
    of.GOVERNANCE: [
        _at(day, "review", llmops__model__version="v1")
        | {
            "llmops.governance.verdict": verdict,
            "llmops.governance.attack_success_rate": rate,
            "llmops.governance.flagged_answers": 0.5 * rate,
            "llmops.governance.counts": {"high": 1},
        }
        for day, verdict, rate in ((FIRST, "passed", 0.125), (SECOND, "failed", 0.5))
    ],
    of.HUB: [
        _at(FIRST, "check")
        | {"llmops.hub.repo": "shop/bot", "llmops.hub.equal": True, "llmops.hub.failed": {"v1": "?"}}
    ],
    of.HUB_DATASET: [_at(FIRST, "check") | {"llmops.hub.repo": "shop/data", "llmops.hub.equal": False}],
    of.ERASURE: [_at(FIRST, "forget") | {"llmops.erasure.documents": 3, "llmops.erasure.remaining": 1}],
    of.RETENTION: [_at(SECOND, "gc") | {"llmops.retention.freed": 4096, "llmops.retention.artifacts": 2}],
    of.ALERT: [
        _alert(FIRST, "latency", "raised", "critical", 1.5, "a1"),
        _alert(FIRST, "latency", "resolved", "critical", 0.5, "a1"),
        _alert(SECOND, "latency", "raised", "critical", 2.5, "a2"),
        _alert(SECOND, "drift", "raised", "warning", 1.25, "a3", subject="prompt.words"),
    ],
    of.SINK: [
        _at(
            FIRST,
            "fails",
            "failure",
            llmops__sink__name="elasticsearch",
            llmops__sink__waiting=100,
            llmops__sink__rejected=0,
        ),
        _at(
            FIRST,
            "fails",
            "failure",
            llmops__sink__name="elasticsearch",
            llmops__sink__waiting=900,
            llmops__sink__rejected=2,
        ),
        _at(SECOND, "takes", llmops__sink__name="elasticsearch", llmops__sink__waiting=0, llmops__sink__rejected=2),
    ],
    of.DRIFT: [
        _drift(FIRST, "words", 0.125, False, 0.5, 0, []),
        _drift(SECOND, "words", 0.5, True, 0.03125, 1, ["returns"]),
        _drift(SECOND, "topics", 0.75, True, 0.0625, 2, ["returns", "taxes"]),
        _drift(SECOND, "words", 0.25, False, 0.25, 0, [], "answer"),
    ],
    of.DECAY: [
        _decay(FIRST, "f1", 0.75),
        _decay(SECOND, "f1", 0.5, slope=-0.25, slope_low=-0.5, slope_high=-0.125),
        _decay(SECOND, "perplexity", 12.5),
        _decay(SECOND, "perplexity", 10.5, "v2"),
        _decay(SECOND, "f1", 0.25, set="fresh"),
        _decay(SECOND, "accuracy", 0.875, "v2"),
        _decay(FIRST, "accuracy", 0.625, set="fresh"),
        _decay(SECOND, "up_share", 0.75, set="live", items=40),
        _decay(SECOND, "refusals", 0.125, set="live", items=40),
    ],
    of.IMPROVEMENT: [
        _at(SECOND, "improve", "success")
        | {
            "llmops.improvement.corrections": 10,
            "llmops.improvement.accepted": 6,
            "llmops.improvement.refused": 1,
            "llmops.improvement.waiting": 3,
            "llmops.improvement.since": f"{FIRST}T00:00:00.000Z",
        },
    ],
}


def known() -> list[dict[str, Any]]:
    """All of them, as they are emitted, with ids that tell them apart."""
    return [
        build(dataset, {"event.id": f"{dataset}-{n}", **event})
        for dataset, several in EVENTS.items()
        for n, event in enumerate(several)
    ]
