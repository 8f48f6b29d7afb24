"""What a source of the kind `feedback` yields: the corrections and good answers that may train, each once."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence

import pyarrow as pa

from llmops.data.feedback import rows
from llmops.data.feedback.intake import end_of
from llmops.data.feedback.rows import Review
from llmops.data.feedback.same import alike
from llmops.data.text.comparable import comparable
from llmops.monitoring.events import timestamp
from llmops.records import KEY, Document, content_id, is_key
from llmops.state.database import database_at

LOCATION = "feedback"  #: of the documents
ALIKE = 0.85  #: F1 of the words from which two answers are of one topic, as `improve.agreement` by default
_PAIR = ("id", "source", "location", "position", "question", "context", "chosen", "rejected", "version")
_FIELDS = {"event", "key", "kind", "version", "accepted"}  #: what `fields` has
PAIRS = pa.schema([pa.field(name, pa.string(), nullable=False) for name in _PAIR])


def trained(database: str, interval: str) -> list[Review]:
    """What may train of what was decided before the end of a data interval, by the database of a URL; empty: none."""
    return rows.trained(database_at(database), timestamp(end_of(interval))) if database else []


def corrected(found: Iterable[Review]) -> dict[str, str]:
    """Questions, as they are compared, whose answers users have corrected → where the correction stands."""
    return {comparable(row.question): position(row) for row in found if row.kind == "correction"}


def version(database: str, interval: str) -> str:
    """16 hex digits over it: what is decided later is new work."""
    return version_of(trained(database, interval))


def version_of(found: Iterable[Review]) -> str:
    """The same, of what may train."""
    return content_id(*(part for row in found for part in (row.id, row.decided, row.text)))


def position(row: Review) -> str:
    """Where a document stands: it stays with the row, as the key of a table's row does."""
    return f"{KEY}{row.id}"


def is_said(location: str, position: str) -> bool:
    """Whether what stands at this place is what users have said."""
    return location == LOCATION and is_key(position)


def told_of(document: Document) -> dict[str, str] | None:
    """What a document of this kind says of where it is from; None for any other, as of a table called `feedback`."""
    if not is_said(document.location, document.position):
        return None
    told = json.loads(document.fields)
    return told if isinstance(told, dict) and told.keys() == _FIELDS else None


def document_id(source: str, id: str) -> str:
    """The id of the document of a row."""
    return content_id(source, LOCATION, f"{KEY}{id}")


def topics(found: Iterable[Review]) -> dict[str, str]:
    """Id of a row → the group of its document, where several answer nearly alike. The others have none: they are
    grouped by their answer, as any document is, and so with those of other sources that have it, too."""
    rows = list(found)
    topics = defaultdict[int, list[Review]](list)
    for row, head in zip(rows, alike([row.text for row in rows], ALIKE), strict=True):
        topics[head].append(row)
    several = (group for group in topics.values() if len({comparable(row.text) for row in group}) > 1)
    return {row.id: f"said {group[0].id}" for group in several for row in group}


def fields(row: Review, keyed: Callable[[str], str]) -> dict[str, str]:
    """What a document says of where it is from; the key only as `keyed` has it, which nobody can undo."""
    accepted = "review" if row.reviewed else "policy"
    return {"event": row.id, "key": keyed(row.key), "kind": row.kind, "version": row.version, "accepted": accepted}


def pairs(source: str, found: Sequence[Review]) -> Iterator[dict[str, str]]:
    """Pairs of a chosen and a rejected answer, for training by preference (DPO, Rafailov et al. 2023, say)."""
    for row in found:
        if row.kind == "correction" and row.answer:
            yield {
                "id": document_id(source, row.id),
                "source": source,
                "location": LOCATION,
                "position": position(row),
                "question": row.question,
                "context": row.context,
                "chosen": row.text,
                "rejected": row.answer,
                "version": row.version,
            }
