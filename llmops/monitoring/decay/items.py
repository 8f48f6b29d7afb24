"""The items for measuring the champion: the frozen test of its version, and people's later corrections."""

from __future__ import annotations

from datetime import datetime

import pyarrow.parquet as pq

from llmops.config import Config
from llmops.data.feedback import rows
from llmops.data.feedback.review import refresh
from llmops.events.events import format_timestamp
from llmops.frame.records import Example, make_content_id
from llmops.release.registry.registry import registry_of
from llmops.release.registry.version import Version
from llmops.state.database import database_of

FRESH = "fresh"  #: source of the corrections; callers have sent their contexts
MAX_FRESH_ITEMS = 500  #: most corrections measured, the latest ones


def read_fixed_items(version: Version) -> list[Example]:
    """Return the test items that the version answered before its release, except those erased since."""
    answers = pq.read_table(
        version.path / "answers.parquet", columns=["id", "question", "context", "reference", "source", "group", "model"]
    )
    return [
        _make_item(row["id"], row["question"], row["reference"], row["context"], row["source"], row["group"])
        for row in answers.to_pylist()
        if row["model"] == "candidate"
    ]


def read_fresh_items(config: Config) -> list[Example]:
    """Return the corrections accepted since the champion was made, by a reviewer or by agreement of users.

    The last correction of a question counts.
    """
    champion = registry_of(config).champion()
    if champion is None:
        return []
    refresh(config)
    corrections: dict[tuple[str, str], Example] = {}
    for row in rows.read_accepted(database_of(config), format_timestamp()):
        if row.kind == "correction" and row.decided >= format_timestamp(datetime.fromisoformat(champion.created)):
            key = row.question, row.context
            corrections.pop(key, None)
            corrections[key] = _make_item(make_content_id(*key), row.question, row.text, row.context, FRESH)
    return list(corrections.values())[-MAX_FRESH_ITEMS:]


def _make_item(id: str, question: str, answer: str, context: str, source: str, group: str = "") -> Example:
    return Example(
        id=id, question=question, answer=answer, context=context or "", group=group or id, split="test", source=source,
        location="", position="",
    )  # fmt: skip
