"""One event: a flat JSON document, committed to the spool.

Field names follow the Elastic Common Schema (`@timestamp`, `event.*`, `http.*`, `user.*`) and OpenTelemetry's GenAI
conventions (`gen_ai.*`). All others begin with `llmops.`. `llmops.events.fields` lists every field.
"""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from llmops.events.datasets import DATASETS
from llmops.events.fields import list_field_names
from llmops.events.spool import Spool
from llmops.events.times import format_timestamp

__all__ = ["build_event", "emit", "emit_all", "format_timestamp"]

ECS_VERSION = "8.17.0"


def emit(folder: Path, dataset: str, fields: Mapping[str, Any]) -> str:
    """Build one event, commit it to the spool in `folder`, and return its `event.id`.

    After the return, the event survives a crash of the process and of the machine.

    `fields` maps flat dotted names to JSON values. `@timestamp` defaults to now. Set `event.id` if the same event may
    be emitted twice: sinks keep the first.
    """
    return emit_all(folder, dataset, [fields])[0]


def emit_all(folder: Path, dataset: str, fields_per_event: Iterable[Mapping[str, Any]]) -> list[str]:
    """Emit several events of a dataset in one commit, at the cost of one, and return their `event.id`s."""
    events = [build_event(dataset, fields) for fields in fields_per_event]
    with Spool(folder) as spool:
        spool.append(events)
    return [str(event["event.id"]) for event in events]


def build_event(dataset: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the document of one event. NaN and infinities become null: JSON and Elasticsearch refuse them."""
    event: dict[str, Any] = {
        "@timestamp": fields.get("@timestamp") or format_timestamp(),
        "ecs.version": ECS_VERSION,
        "event.id": fields.get("event.id") or str(uuid.uuid4()),
        "service.name": "llmops",
        **{name: _replace_non_finite(value) for name, value in fields.items()},
        "event.dataset": dataset,
    }
    assert dataset not in DATASETS or event.keys() <= list_field_names(dataset), (
        f"llmops.events.fields does not have {sorted(event.keys() - list_field_names(dataset))} of {dataset}"
    )
    result: dict[str, Any] = json.loads(json.dumps(event, ensure_ascii=False, allow_nan=False, default=str))
    return result


def _replace_non_finite(value: Any) -> Any:
    if value is None or isinstance(value, str | int):  # nearly all values
        return value
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(k): _replace_non_finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_replace_non_finite(v) for v in value]
    return value
