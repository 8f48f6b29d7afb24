"""Feedback that may train, from the database: one document for all users who say the same."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from llmops.data.collect.readers.origin import Items, Origin
from llmops.data.feedback import documents
from llmops.data.feedback.rows import Review


def read(found: Iterable[Review], origin: Origin, keyed: Callable[[str], str]) -> Items:
    """Yield one item per row, in order. Its position is the row's key, which never changes."""
    for row in found:
        parts = {"question": row.question, "answer": row.text, "context": row.context}
        yield origin.document(documents.position_of(row), documents.origin_fields(row, keyed), **parts)
