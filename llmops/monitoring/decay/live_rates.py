"""Daily quality of a version from its requests: ratings and refusals."""

from __future__ import annotations

from datetime import datetime

from llmops.events.datasets import FEEDBACK, SERVING, TEXT
from llmops.events.events import format_timestamp
from llmops.events.reader import Reader
from llmops.frame.statistics.rates import Rate, compute_rate


def measure_live_rates(reader: Reader, version: str, since: datetime, until: datetime) -> dict[str, Rate]:
    """Return rates of the requests of a period, with Wilson's intervals. Rates without data are left out.

    `up_share` is the share of positive ratings (the last one of a key per request), `refusals` that of refused answers.
    """
    window = format_timestamp(since), format_timestamp(until)
    texts = reader.select(TEXT, ("llmops.model.version", "llmops.answer.refusal"), *window)
    refused = [bool(refusal) for name, refusal in texts if name == version and refusal is not None]
    requests = reader.select(SERVING, ("llmops.model.version", "http.request.id"), *window)
    request_ids = {id for name, id in requests if name == version}
    fields = ("http.request.id", "llmops.key.prefix", "llmops.feedback.rating")
    ratings = reader.select(FEEDBACK, fields, format_timestamp(since))
    last_ratings = {(id, key): rating for id, key, rating in ratings if rating and id in request_ids}
    counts = {
        "up_share": (sum(rating == "up" for rating in last_ratings.values()), len(last_ratings)),
        "refusals": (sum(refused), len(refused)),
    }
    return {name: compute_rate(*count) for name, count in counts.items() if count[1]}
