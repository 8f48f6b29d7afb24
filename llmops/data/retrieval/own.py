"""The passages that hold the answers of examples: those of their own documents."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq

from llmops.data.retrieval.files import open_database, passages_of
from llmops.data.retrieval.terms import terms_of
from llmops.data.text.comparable import comparable
from llmops.frame.records import Example, Passage, content_id

MOST_DOCUMENTS = 20  #: of an answer that many documents give, its own first
LEAST_ADDED = 0.1  #: share of an answer's words that a further passage has and the ones before have not

_SPLITS = ("train", "validation", "test")
_PLACE = ("source", "location", "position")


class OwnPassages:
    """The passages of an example's own documents: those of all examples with its topic and its answer.

    So the other wording of a question has the passages of the document that answers it.

    Args:
        index: the artifact with the documents.
        annotate: the artifact with the examples of all splits, which are read once.
    """

    def __init__(self, index: Path, annotate: Path) -> None:
        self._documents = defaultdict[str, dict[str, None]](dict)
        for split in _SPLITS:
            file = pq.ParquetFile(annotate / f"{split}.parquet")
            for batch in file.iter_batches(columns=["group", "answer", *_PLACE]):
                for row in batch.to_pylist():
                    documents = self._documents[_key_of(row["group"], row["answer"])]
                    if len(documents) < MOST_DOCUMENTS:
                        documents[content_id(*(row[name] for name in _PLACE))] = None
        self._database = open_database(index)

    def documents(self, example: Example) -> list[str]:
        """Return the first documents of an example, its own before others; some may not be indexed."""
        own = content_id(*(getattr(example, name) for name in _PLACE))
        return list(dict.fromkeys([own, *self._documents[_key_of(example.group, example.answer)]]))

    def passages(self, example: Example) -> list[Passage]:
        """Return the passages of an example's first documents, in their order."""
        return [*passages_of(self._database, self.documents(example)[:MOST_DOCUMENTS])]

    def close(self) -> None:
        """Close the index."""
        self._database.close()


def find_holding(answer: str, passages: Sequence[Passage]) -> list[Passage]:
    """Return the passages that hold an answer: the one with most of its words, then those that add words to it."""
    words, found = _content_words(answer), list[Passage]()
    terms, missing = [{*terms_of(passage.text)} for passage in passages], words
    while len(found) < len(passages):
        best = max(range(len(passages)), key=lambda n: len(missing & terms[n]))
        if found and len(missing & terms[best]) <= LEAST_ADDED * len(words):
            break
        found.append(passages[best])
        missing = missing - terms[best]
    return found


def measure_held(answer: str, text: str) -> float:
    """Return the share of an answer's content words that a text has; 1 if it has none."""
    words = _content_words(answer)
    return len(words.intersection(terms_of(text))) / len(words) if words else 1.0


def _content_words(text: str) -> set[str]:
    """Return the words with more than three letters, which mean something by themselves; all if there are none."""
    words = {*terms_of(text)}
    return {word for word in words if len(word) > 3} or words


def _key_of(topic: str, answer: str) -> str:
    return content_id(topic, comparable(answer))  # a page breaks lines where a chat has spaces
