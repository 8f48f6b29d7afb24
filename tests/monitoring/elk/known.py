"""Known events of every dataset: each field that the registry has for it has a value of its type."""

from typing import Any

from llmops.events import datasets as of
from llmops.events.events import build_event
from llmops.events.fields import FIELDS, list_field_names

DAY = "2026-03-02"
VALUES: dict[str, Any] = {
    "keyword": ["one", "two"],
    "text": "Wo ist mein Paket? " * 600,  # longer than a keyword may be
    "long": 2**40,
    "double": 0.125,
    "boolean": True,
    "date": f"{DAY}T12:00:00.000Z",
    "ip": "2001:db8::1",
    "object": {"of": "a shape"},
}

#: Values that the panels ask for; None: the event does not have the field.
OWN: dict[str, list[dict[str, Any]]] = {
    of.SERVING: [{"http.response.status_code": 200, "llmops.guard.verdict": "cut"}, {"http.response.status_code": 500}],
    of.PIPELINE: [
        {"event.outcome": "success"},
        {"event.outcome": "failure", "llmops.metrics": {"of": {"another": "shape"}}},
    ],
    of.GATE: [{"llmops.gate.reasons": ["x" * 40_000]}],  # longer than Lucene takes as one term
    of.AUDIT: [{"event.outcome": "failure"}],
    of.ALERT: [{"llmops.alert.state": state} for state in ("raised", "resolved")],
    of.DRIFT: [{"llmops.drift.side": side} for side in ("prompt", "answer")],
    of.DECAY: [
        {"llmops.decay.set": items, "llmops.decay.metric": metric}
        for items in ("fixed", "fresh", "live")
        for metric in ("f1", "accuracy", "perplexity")
    ],
}


def make_known_events() -> list[dict[str, Any]]:
    """Return all of them, as they are emitted, with ids that tell them apart."""
    types = {field.name: field.type for field in FIELDS}
    events = []
    for dataset in of.DATASETS:
        values = {name: VALUES[types[name]] for name in sorted(list_field_names(dataset))}
        for n, own in enumerate(OWN.get(dataset, [{}])):
            fields = values | own | {"event.id": f"{dataset}-{n}"}
            events.append(build_event(dataset, {name: value for name, value in fields.items() if value is not None}))
    return events
