"""Daily quality of a version from its requests: ratings and refusals."""

from __future__ import annotations

from datetime import datetime

from llmops.events.datasets import FEEDBACK, SERVING, TEXT
from llmops.events.events import timestamp
from llmops.events.reader import Reader
from llmops.frame.statistics.rates import Rate, wilson


def measure_live_rates(reader: Reader, version: str, since: datetime, until: datetime) -> dict[str, Rate]:
    """Return rates of the requests of a period, with Wilson's intervals. Rates without data are left out.

    `up_share` is the share of positive ratings (the last one of a key per request), `refusals` that of refused answers.
    """
    between = timestamp(since), timestamp(until)
    texts = reader.select(TEXT, ("llmops.model.version", "llmops.answer.refusal"), *between)
    refused = [bool(refusal) for name, refusal in texts if name == version and refusal is not None]
    served = reader.select(SERVING, ("llmops.model.version", "http.request.id"), *between)
    ours = {id for name, id in served if name == version}
    fields = ("http.request.id", "llmops.key.prefix", "llmops.feedback.rating")
    ratings = reader.select(FEEDBACK, fields, timestamp(since))
    last_ratings = {(id, key): rating for id, key, rating in ratings if rating and id in ours}
    counts = {
        "up_share": (sum(rating == "up" for rating in last_ratings.values()), len(last_ratings)),
        "refusals": (sum(refused), len(refused)),
    }
    return {name: wilson(*count) for name, count in counts.items() if count[1]}
