"""Feedback that may train, from the database: one document for all users who say the same."""

from collections.abc import Callable, Iterable

from llmops.data.collect.readers.origin import Items, Origin
from llmops.data.feedback import documents
from llmops.data.feedback.rows import Review


def read(reviews: Iterable[Review], origin: Origin, hash_text: Callable[[str], str]) -> Items:
    """Yield one item per review, in order. Its position is the review's key, which never changes."""
    for review in reviews:
        parts = {"question": review.question, "answer": review.text, "context": review.context}
        yield origin.make_document(
            documents.make_position(review), documents.make_origin_fields(review, hash_text), **parts
        )
