"""Which documents are indexed, and without what: the personal data and secrets that no example is trained with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace

from llmops.data.feedback.documents import told_of
from llmops.records import Document
from llmops.scans.pii import redact_all

_TEXTS = ("text", "question", "answer", "context")


def refused(document: Document, without: Collection[str]) -> str:
    """Why a document is not indexed; empty if it is.

    What users have said is indexed only if it corrects an answer and a person has accepted it: others would find it as
    if the company said it.

    Args:
        document: any.
        without: sources that are left out.
    """
    if document.source in without:
        return "left_out"
    told = told_of(document)
    if told is not None and (told["kind"], told["accepted"]) != ("correction", "review"):
        return "said_by_users"
    return "" if document.answer or document.text else "nothing_but_a_question"


def redacted(documents: Sequence[Document], entities: Sequence[str]) -> tuple[list[Document], Counter[str]]:
    """The documents with a mark in the place of each entity, and how many of each there were.

    That is done to whole documents: of a number that is cut in two, neither half would be recognised.
    """
    texts = sorted({getattr(document, name) for document in documents for name in _TEXTS})
    found = dict(zip(texts, redact_all(texts, entities), strict=True))
    counts = Counter[str]()
    clean = []
    for document in documents:
        theirs = {name: found[getattr(document, name)] for name in _TEXTS}
        for one in theirs.values():
            counts.update(one.counts)
        clean.append(replace(document, **{name: one.text for name, one in theirs.items()}))
    return clean, counts
