"""What users have said and may train, from the database: one document for all who say the same."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from llmops.data.collect.readers.origin import Items, Origin
from llmops.data.feedback import documents
from llmops.data.feedback.rows import Review


def read(found: Iterable[Review], origin: Origin, keyed: Callable[[str], str]) -> Items:
    """Yield one item per row, in their order; its position is the key of the row, which stays with it.

    Args:
        found: what may train.
        origin: the source.
        keyed: makes of the prefix of a key what nobody can undo.
    """
    rows = list(found)
    topics = documents.topics(rows)
    for row in rows:
        parts = {"question": row.question, "answer": row.text, "context": row.context, "group": topics.get(row.id, "")}
        yield origin.document(documents.position(row), documents.fields(row, keyed), **parts)
