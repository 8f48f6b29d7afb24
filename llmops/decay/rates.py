"""What requests of a day tell of the quality of a version: thumbs, refusals, and questions without a passage."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from llmops.monitoring.datasets import FEEDBACK, SERVING, TEXT
from llmops.monitoring.events import timestamp
from llmops.monitoring.reader import Reader
from llmops.statistics.rates import Rate, wilson


def live_rates(reader: Reader, version: str, since: datetime, until: datetime) -> dict[str, Rate]:
    """Of the requests of a time, with Wilson's intervals; what nothing is known of is left out.

    `up_share`: of the ratings, a key's last word on a request counts; `refusals`: of the answers; `retrieval_misses`:
    of the questions that passages were looked for.
    """
    between = timestamp(since), timestamp(until)
    texts = reader.columns(TEXT, ("llmops.model.version", "llmops.answer.refusal"), *between)
    refused = [bool(refusal) for name, refusal in texts if name == version and refusal is not None]
    served = reader.columns(SERVING, ("llmops.model.version", "http.request.id", "llmops.retrieval.passages"), *between)
    passages = [_list(found) for name, _, found in served if name == version and found is not None]
    ours = {id for name, id, _ in served if name == version}
    fields = ("http.request.id", "llmops.key.prefix", "llmops.feedback.rating")
    said = reader.columns(FEEDBACK, fields, timestamp(since))
    rated = {(id, key): rating for id, key, rating in said if rating and id in ours}
    counts = {
        "up_share": (sum(rating == "up" for rating in rated.values()), len(rated)),
        "refusals": (sum(refused), len(refused)),
        "retrieval_misses": (sum(not found for found in passages), len(passages)),
    }
    return {name: wilson(*count) for name, count in counts.items() if count[1]}


def _list(value: Any) -> list[Any]:
    """A field that may have several values, however the reader gives it."""
    if isinstance(value, str) and value.startswith("["):
        value = json.loads(value)
    return value if isinstance(value, list) else [value]
