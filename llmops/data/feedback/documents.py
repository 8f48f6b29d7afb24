"""The data of a feedback source: accepted corrections and good answers, each once."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence

import pyarrow as pa

from llmops.data.feedback import rows
from llmops.data.feedback.intake import get_interval_end
from llmops.data.feedback.rows import Review
from llmops.data.text.normalization import hash_wording, normalize_text
from llmops.events.events import format_timestamp
from llmops.frame.records import KEY_PREFIX, make_content_id
from llmops.state.database import database_at

LOCATION = "feedback"  #: location of the documents
_MARK = re.compile(r"<[A-Z]+(?:_[A-Z]+)*>")  # stands for personal data, see `llmops.scans.pii`
_PAIR_FIELDS = ("id", "source", "location", "position", "question", "context", "chosen", "rejected", "version")
PAIR_SCHEMA = pa.schema([pa.field(name, pa.string(), nullable=False) for name in _PAIR_FIELDS])


def read_accepted(database: str, interval: str) -> list[Review]:
    """Return feedback accepted before the end of a data interval, from the database at a URL; empty without URL."""
    return rows.read_accepted(database_at(database), format_timestamp(get_interval_end(interval))) if database else []


class Corrections:
    """The questions whose answers users have corrected, each with the context of the correction.

    Feedback is stored without personal data. So a correction's context may have marks, such as `<EMAIL_ADDRESS>`, where
    the row that it corrects has a name or an address: a mark stands for any text.
    """

    def __init__(self, reviews: Iterable[Review]) -> None:
        self._positions: dict[str, str] = {}  #: hash of question and context → position of the correction
        self._marked: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)  #: question → context and position
        for row in reviews:
            if row.kind == "correction":
                self._positions[hash_wording(row.question, row.context)] = make_position(row)
                if _MARK.search(row.context):
                    self._marked[hash_wording(row.question, "")].append((row.context, make_position(row)))

    def __bool__(self) -> bool:
        return bool(self._positions)

    def find(self, question: str, context: str) -> str:
        """Return the position of the correction of a row; empty if there is none."""
        if not question:
            return ""
        if position := self._positions.get(hash_wording(question, context)):
            return position
        marked = self._marked.get(hash_wording(question, ""), ()) if self._marked else ()
        return next((position for pattern, position in marked if _fits(pattern, context)), "")


def _fits(pattern: str, text: str) -> bool:
    """Return True if a text has the words of a pattern, in order, with any text in place of each mark."""
    first, *parts = (normalize_text(part, keep_closing=False) for part in _MARK.split(pattern))
    text = normalize_text(text, keep_closing=False)
    if not text.startswith(first):
        return False
    rest = text[len(first) :]
    for part in parts:
        _, found, rest = rest.partition(part) if part else ("", " ", rest)
        if not found:
            return False
    return text.endswith(parts[-1])


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
