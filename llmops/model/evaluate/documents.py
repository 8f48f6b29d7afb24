"""The frozen test as callers would ask it: with the passages that retrieval gives, or refused by it.

A heading path is no context that a caller would send, so an item with one is looked up; any other context stays.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pyarrow.parquet as pq

from llmops.config import Grounding
from llmops.data.retrieval.grounds import JUDGED, LEAST_ROOM, REFUSAL, look_up, room_of, text_of
from llmops.data.retrieval.search import Hit, Index, open_index
from llmops.data.retrieval.terms import terms_of
from llmops.data.text.headings import is_path
from llmops.model.scoring.tasks import Columns
from llmops.records import Example, Passage, content_id

SHARE = "share_in_passages"  #: share of an answer's content words and numbers that are found in the passages

_SPLITS = ("train", "validation", "test")
_PLACE = ("source", "location", "position")


@dataclass(frozen=True, slots=True)
class Asked:
    """The test as a model is asked it."""

    items: Sequence[Example]  #: with the contexts that the model reads
    known: Mapping[int, str] = field(default_factory=dict)  #: position of an item → answer without the model
    passages: Sequence[str] = ()  #: of each item, empty if it has none; no element: no documents are used


@dataclass(frozen=True, slots=True)
class GroundedTest:
    """The test with documents, and figures of the retrieval."""

    system: Asked  #: with what retrieval gives
    right: Asked  #: with the right passage, where the item's document is indexed
    closed: Asked  #: without passages
    columns: Columns  #: figure of the retrieval → one value per item, or none
    counts: dict[str, int]  #: items that were looked up, and of these the ones whose documents are not indexed


def ground_test(
    index: Path, annotate: Path, items: Sequence[Example], config: Grounding, window: int, max_new_tokens: int
) -> GroundedTest:
    """Look up each item's question as serving does.

    An item's own documents are the ones of all examples that have its topic and its answer. A refusal is right if none
    of them is indexed. A text that stands on several pages counts wherever it was found.

    Args:
        index: a finished artifact.
        annotate: the artifact with the test.
        items: the test.
        config: what is good enough to answer from.
        window: tokens of a prompt and its answer in serving.
        max_new_tokens: of an answer.
    """
    found, right = [""] * len(items), [""] * len(items)
    refused, counts = set[int](), {"looked_up": 0, "not_indexed": 0}
    names = ("recall_at_1", "recall_at_5", "mrr", "wrongly_refused", "rightly_refused")
    columns: Columns = {name: [None] * len(items) for name in names}
    with open_index(index) as opened:
        own = _own_passages(opened, annotate, items)
        for n, item in enumerate(items):
            room = room_of(window, max_new_tokens, item.question)
            if not is_path(item.context) or room < LEAST_ROOM:
                continue
            given, theirs = look_up(opened, item.question, config, room), own[item.group, item.answer]
            found[n] = given.context
            if not given.hits:
                refused.add(n)
            counts["looked_up"] += 1
            if not theirs:
                counts["not_indexed"] += 1
                right[n], columns["rightly_refused"][n] = given.context, float(not given.hits)
                continue
            right[n] = text_of(Hit(_nearest(theirs, item.answer), 0, None, None, None))
            rank = _rank(opened.search(item.question, JUDGED), theirs)
            values = (rank == 1, 1 <= rank <= 5, 1 / rank if rank else 0, not given.hits)
            for name, value in zip(names, values, strict=False):
                columns[name][n] = float(value)
    return GroundedTest(
        system=Asked(_with(items, found), dict.fromkeys(refused, REFUSAL), found),
        right=Asked(_with(items, right), {n: REFUSAL for n in refused if not right[n]}, right),
        closed=Asked(items, passages=found),
        columns=columns,
        counts=counts,
    )


def shares(answers: Sequence[str], asked: Asked) -> list[float | None]:
    """Return the share of each answer's content words and numbers that are in its passages; None without passages.

    Content words have more than three letters, or letters outside of ASCII. It says nothing of what the words mean.
    """
    found = list[float | None]()
    for n, (answer, passages) in enumerate(zip(answers, asked.passages, strict=True)):
        words = _content(answer)
        counts = passages and words and n not in asked.known
        found.append(len(words & _content(passages)) / len(words) if counts else None)
    return found


def _own_passages(
    index: Index, annotate: Path, items: Sequence[Example]
) -> defaultdict[tuple[str, str], list[Passage]]:
    """Return topic and answer → passages of the documents of all examples that have both."""
    wanted = {(item.group, item.answer) for item in items}
    documents = defaultdict[str, set[tuple[str, str]]](set)  # id → topics and answers
    for split in _SPLITS:
        file = pq.ParquetFile(annotate / f"{split}.parquet")
        for batch in file.iter_batches(columns=["group", "answer", *_PLACE]):
            for row in batch.to_pylist():
                if (key := (row["group"], row["answer"])) in wanted:
                    documents[content_id(*(row[name] for name in _PLACE))].add(key)
    found = defaultdict[tuple[str, str], list[Passage]](list)
    for passage in index.of_documents(documents):
        for key in documents[passage.document]:
            found[key].append(passage)
    return found


def _rank(hits: Sequence[Hit], own: Sequence[Passage]) -> int:
    """Return the rank of the first hit that is one of these passages, from 1; 0: none is."""
    documents, texts = {passage.document for passage in own}, {passage.text for passage in own}
    ranks = enumerate((hit.passage for hit in hits), 1)
    return next((rank for rank, one in ranks if one.document in documents or one.text in texts), 0)


def _nearest(passages: Sequence[Passage], answer: str) -> Passage:
    """Return the passage with most content words of an answer."""
    words = _content(answer)
    return max(passages, key=lambda passage: len(words & _content(passage.text)))


def _content(text: str) -> set[str]:
    return {term for term in terms_of(text) if len(term) > 3 or not (term.isascii() and term.isalpha())}


def _with(items: Sequence[Example], contexts: Sequence[str]) -> list[Example]:
    return [replace(item, context=context or item.context) for item, context in zip(items, contexts, strict=True)]
