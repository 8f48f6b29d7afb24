"""The data of a feedback source: accepted corrections and good answers, each once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import pyarrow as pa

from llmops.data.feedback import rows
from llmops.data.feedback.intake import get_interval_end
from llmops.data.feedback.rows import Review
from llmops.data.text.normalization import hash_wording
from llmops.events.events import format_timestamp
from llmops.frame.records import KEY_PREFIX, make_content_id
from llmops.state.database import database_at

LOCATION = "feedback"  #: location of the documents
_PAIR_FIELDS = ("id", "source", "location", "position", "question", "context", "chosen", "rejected", "version")
PAIR_SCHEMA = pa.schema([pa.field(name, pa.string(), nullable=False) for name in _PAIR_FIELDS])


def read_accepted(database: str, interval: str) -> list[Review]:
    """Return feedback accepted before the end of a data interval, from the database at a URL; empty without URL."""
    return rows.read_accepted(database_at(database), format_timestamp(get_interval_end(interval))) if database else []


def map_corrections(reviews: Iterable[Review]) -> dict[str, str]:
    """Return the hash of question and context → position of the correction, for corrected answers."""
    corrections = (row for row in reviews if row.kind == "correction")
    return {hash_wording(row.question, row.context): make_position(row) for row in corrections}


def read_version(database: str, interval: str) -> str:
    """Return a digest of the accepted feedback (16 hex digits). Later decisions change it."""
    return hash_reviews(read_accepted(database, interval))


def hash_reviews(reviews: Iterable[Review]) -> str:
    """Return a digest of reviews, which changes with their decisions and texts."""
    return make_content_id(*(part for row in reviews for part in (row.id, row.decided, row.text)))


def make_position(row: Review) -> str:
    """Return the position of a document: the row's key, which never changes."""
    return f"{KEY_PREFIX}{row.id}"


def make_document_id(source: str, id: str) -> str:
    """Return the id of a row's document."""
    return make_content_id(source, LOCATION, f"{KEY_PREFIX}{id}")


def make_origin_fields(row: Review, hash_key: Callable[[str], str]) -> dict[str, str]:
    """Return a document's fields about its origin. `hash_key` hashes the API key irreversibly."""
    accepted = "review" if row.reviewed else "policy"
    return {"event": row.id, "key": hash_key(row.key), "kind": row.kind, "version": row.version, "accepted": accepted}


def build_pairs(source: str, reviews: Sequence[Review]) -> Iterator[dict[str, str]]:
    """Yield pairs of a chosen and a rejected answer, for preference training (DPO, Rafailov et al. 2023)."""
    for row in reviews:
        if row.kind == "correction" and row.answer:
            yield {
                "id": make_document_id(source, row.id),
                "source": source,
                "location": LOCATION,
                "position": make_position(row),
                "question": row.question,
                "context": row.context,
                "chosen": row.text,
                "rejected": row.answer,
                "version": row.version,
            }
