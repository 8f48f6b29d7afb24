"""The passages that hold the answers of examples: those of their own documents."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq

from llmops.data.retrieval.files import passages_of
from llmops.data.retrieval.terms import terms_of
from llmops.data.text.comparable import comparable
from llmops.frame.records import Example, Passage, content_id

Said = tuple[str, str]  #: the topic of an example, and its answer

_SPLITS = ("train", "validation", "test")
_PLACE = ("source", "location", "position")


def own_passages(index: Path, annotate: Path, examples: Sequence[Example]) -> defaultdict[Said, list[Passage]]:
    """Return topic and answer → passages of the documents of all examples that have both.

    So the other wording of a question has the passages of the document that answers it.

    Args:
        index: the artifact with the documents.
        annotate: the artifact with the examples of all splits.
        examples: whose passages are wanted.
    """
    wanted = set(map(said, examples))
    documents = defaultdict[str, set[Said]](set)
    for split in _SPLITS:
        file = pq.ParquetFile(annotate / f"{split}.parquet")
        for batch in file.iter_batches(columns=["group", "answer", *_PLACE]):
            for row in batch.to_pylist():
                if (key := _said(row["group"], row["answer"])) in wanted:
                    documents[content_id(*(row[name] for name in _PLACE))].add(key)
    found = defaultdict[Said, list[Passage]](list)
    for passage in passages_of(index, documents):
        for key in documents[passage.document]:
            found[key].append(passage)
    return found


def said(example: Example) -> Said:
    """Return the key of an example in `own_passages`."""
    return _said(example.group, example.answer)


def nearest_to(answer: str, passages: Sequence[Passage]) -> Passage:
    """Return the passage that has most words of an answer."""
    words = {*terms_of(answer)}
    return max(passages, key=lambda passage: len(words.intersection(terms_of(passage.text))))


def _said(topic: str, answer: str) -> Said:
    return topic, comparable(answer)  # a page breaks lines where a chat has spaces
