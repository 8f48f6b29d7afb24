"""What the champion is measured on: the frozen test of its version, and what people have corrected since."""

from __future__ import annotations

from datetime import datetime

import pyarrow.parquet as pq

from llmops.config import Config
from llmops.monitoring.datasets import FEEDBACK
from llmops.monitoring.events import timestamp
from llmops.monitoring.reader import reader_of
from llmops.records import Example, content_id
from llmops.registry.registry import registry_of
from llmops.registry.version import Version

MOST_FRESH = 500  #: the latest corrections that are asked
_TRUSTED = {"developer", "admin"}


def fixed_items(version: Version) -> list[Example]:
    """The items that the version answered before it was released; an erasure may have taken some away since."""
    rows = pq.read_table(version.path / "answers.parquet", columns=["id", "question", "context", "reference", "model"])
    return [
        _item(row["id"], row["question"], row["reference"], row["context"], "fixed")
        for row in rows.to_pylist()
        if row["model"] == "candidate"
    ]


def fresh_items(config: Config) -> list[Example]:
    """What people have corrected since the champion was made: the question, and what the answer should have been.

    A correction counts if it names its question and its key's role is developer or admin; of a question the last one.
    """
    champion = registry_of(config).champion()
    if champion is None:
        return []
    found: dict[tuple[str, str], Example] = {}
    for event in reader_of(config).find(FEEDBACK, timestamp(datetime.fromisoformat(champion.created))):
        said = {name: str(event.get(f"llmops.feedback.{name}") or "") for name in ("question", "correction", "context")}
        roles = event.get("user.roles") or []
        if said["question"] and said["correction"] and _TRUSTED & set([roles] if isinstance(roles, str) else roles):
            key = said["question"], said["context"]
            found.pop(key, None)
            found[key] = _item(content_id(*key), said["question"], said["correction"], said["context"], "fresh")
    return list(found.values())[-MOST_FRESH:]


def _item(id: str, question: str, answer: str, context: str, source: str) -> Example:
    return Example(
        id=id, question=question, answer=answer, context=context or "", group=id, split="test", source=source,
        location="", position="",
    )  # fmt: skip
