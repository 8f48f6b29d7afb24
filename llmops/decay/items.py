"""What the champion is measured on: the frozen test of its version, and what people have corrected since."""

from __future__ import annotations

from datetime import datetime

import pyarrow.parquet as pq

from llmops.config import Config
from llmops.data.feedback import rows
from llmops.data.feedback.review import refresh
from llmops.monitoring.events import timestamp
from llmops.records import Example, content_id
from llmops.registry.registry import registry_of
from llmops.registry.version import Version
from llmops.state.database import database_of

MOST_FRESH = 500  #: the latest corrections that are asked


def fixed_items(version: Version) -> list[Example]:
    """The items that the version answered before it was released; an erasure may have taken some away since."""
    answers = pq.read_table(
        version.path / "answers.parquet", columns=["id", "question", "context", "reference", "group", "model"]
    )
    return [
        _item(row["id"], row["question"], row["reference"], row["context"], row["group"], "fixed")
        for row in answers.to_pylist()
        if row["model"] == "candidate"
    ]


def fresh_items(config: Config) -> list[Example]:
    """The corrections that were accepted since the champion was made: by a person, or since users agree.

    Of a question the last one counts.
    """
    champion = registry_of(config).champion()
    if champion is None:
        return []
    refresh(config)
    found: dict[tuple[str, str], Example] = {}
    for row in rows.trained(database_of(config), timestamp()):
        if row.kind == "correction" and row.decided >= timestamp(datetime.fromisoformat(champion.created)):
            key = row.question, row.context
            found.pop(key, None)
            id = content_id(*key)
            found[key] = _item(id, row.question, row.text, row.context, id, "fresh")  # each its own topic
    return list(found.values())[-MOST_FRESH:]


def _item(id: str, question: str, answer: str, context: str, group: str, source: str) -> Example:
    return Example(
        id=id, question=question, answer=answer, context=context or "", group=group, split="test", source=source,
        location="", position="",
    )  # fmt: skip
