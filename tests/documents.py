"""An index of a few documents, made by the stage."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from llmops import artifacts, config, pipeline
from llmops.artifacts import Record
from llmops.records import Document, content_id, write_rows

DAY = "2026-01-31"
SAID = {
    "How long does delivery take?": "Delivery takes three to five days within the country. " * 6,
    "How long is the guarantee?": "Every kettle comes with a guarantee of two years.",
    "May I return a gift?": "Gifts can be returned within thirty days, with the receipt.",
}
DELIVERY, CHESS = "How many days until the delivery arrives?", "Who won the chess tournament of 1972?"


def indexed(home: Path, said: Mapping[str, str], **index: object) -> Path:
    """The artifact of an index of what is said."""
    documents = [
        Document(id=content_id(q), source="faq", location="faq.csv", position=f"row {n}", question=q, answer=a)
        for n, (q, a) in enumerate(said.items(), 1)
    ]
    key = content_id(*said, str(index))
    clean = home / "artifacts" / "clean" / key
    write_rows(clean / "documents" / "part-00000.parquet", documents, Document)
    record = Record("clean", key, {}, {}, DAY, "c", {}, {}, git_commit="", started=DAY, finished=DAY, content=key)
    artifacts.commit(clean, record)
    settings = config.load(overrides={"home": str(home), "index": index}, environ={})
    return pipeline.run_stage("index", settings, DAY, {"clean": clean})
