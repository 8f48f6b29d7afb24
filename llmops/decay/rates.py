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

    `up_share`: of the ratings, a key's last word on a request counts; `refusals`: of the answers; in both without those
    that no model was asked for, since the documents do not say. `retrieval_misses`: of the questions that passages were
    looked for.
    """
    between = timestamp(since), timestamp(until)
    of_requests = "llmops.model.version", "http.request.id", "llmops.retrieval.passages", "llmops.retrieval.outcome"
    served = reader.columns(SERVING, of_requests, *between)
    unasked = {id for _, id, _, outcome in served if outcome == "refused"}
    texts = reader.columns(TEXT, ("llmops.model.version", "llmops.answer.refusal", "http.request.id"), *between)
    refused = [bool(no) for name, no, id in texts if name == version and no is not None and id not in unasked]
    passages = [_list(found) for name, _, found, _ in served if name == version and found is not None]
    ours = {id for name, id, _, _ in served if name == version} - unasked
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
