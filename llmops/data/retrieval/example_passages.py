"""The passages of an example's own documents, and the ones among them that contain its answer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq

from llmops.data.retrieval.file_store import open_database, read_document_passages
from llmops.data.retrieval.terms import extract_terms
from llmops.data.text.normalization import normalize_text
from llmops.frame.records import Example, Passage, make_content_id

MAX_DOCUMENTS = 20  #: documents per example, if many documents have the same answer; its own comes first
MIN_ADDED_SHARE = 0.1  #: least share of an answer's words that a further passage must add to the ones before

_SPLITS = ("train", "validation", "test")
_POSITION_COLUMNS = ("source", "location", "position")


class ExamplePassages:
    """The passages of an example's own documents.

    Its own documents are the documents of all examples with the same topic and answer. So another wording of a
    question gets the passages of the document that answers it.

    Args:
        index: the artifact with the documents.
        annotate: the artifact with the examples of all splits, which are read once.
    """

    def __init__(self, index: Path, annotate: Path) -> None:
        self._documents = defaultdict[str, dict[str, None]](dict)
        for split in _SPLITS:
            file = pq.ParquetFile(annotate / f"{split}.parquet")
            for batch in file.iter_batches(columns=["group", "answer", *_POSITION_COLUMNS]):
                for row in batch.to_pylist():
                    documents = self._documents[_make_key(row["group"], row["answer"])]
                    if len(documents) < MAX_DOCUMENTS:
                        documents[make_content_id(*(row[name] for name in _POSITION_COLUMNS))] = None
        self._database = open_database(index)

    def find_documents(self, example: Example) -> list[str]:
        """Return the ids of an example's documents, its own first. Some may not be indexed."""
        own = make_content_id(*(getattr(example, name) for name in _POSITION_COLUMNS))
        return list(dict.fromkeys([own, *self._documents[_make_key(example.group, example.answer)]]))

    def find_passages(self, example: Example) -> list[Passage]:
        """Return the passages of an example's first `MAX_DOCUMENTS` documents, in their order."""
        return [*read_document_passages(self._database, self.find_documents(example)[:MAX_DOCUMENTS])]

    def close(self) -> None:
        """Close the index."""
        self._database.close()


def find_answering_passages(answer: str, passages: Sequence[Passage]) -> list[Passage]:
    """Return the passages that contain an answer: first the one with most of its words, then each that adds words."""
    words, chosen = _extract_content_words(answer), list[Passage]()
    terms, missing = [{*extract_terms(passage.text)} for passage in passages], words
    while len(chosen) < len(passages):
        best = max(range(len(passages)), key=lambda n: len(missing & terms[n]))
        if chosen and len(missing & terms[best]) <= MIN_ADDED_SHARE * len(words):
            break
        chosen.append(passages[best])
        missing = missing - terms[best]
    return chosen


def measure_coverage(answer: str, text: str) -> float:
    """Return the share of an answer's content words that a text contains; 1 for an answer without content words."""
    words = _extract_content_words(answer)
    return len(words.intersection(extract_terms(text))) / len(words) if words else 1.0


def _extract_content_words(text: str) -> set[str]:
    """Return the words with more than three letters; all words if there are none."""
    words = {*extract_terms(text)}
    return {word for word in words if len(word) > 3} or words


def _make_key(topic: str, answer: str) -> str:
    return make_content_id(topic, normalize_text(answer))  # a page breaks lines where a chat has spaces
