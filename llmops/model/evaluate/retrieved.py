"""What an index holds and finds of the items of a test: the passages that answer them, and their ranks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import yaml

from llmops.config import Grounding
from llmops.data.index.files import PASSAGES
from llmops.data.index.ranking import Hit
from llmops.data.text.words import words_of
from llmops.embedding.embedder import Embedder
from llmops.grounding.quote import quote
from llmops.grounding.retriever import Retriever
from llmops.records import Example, Passage

DEPTH = 10  #: best passages among which the right one is looked for
FEW = 5  #: words; an answer of fewer stands in many passages that do not answer its question
TOGETHER = 4_096


@dataclass(frozen=True, slots=True)
class Retrieved:
    """What is found of one item."""

    given: tuple[Hit, ...]  #: what a model is told; none: the documents do not say
    right: Passage | None  #: the passage that answers it best; None: the index has none
    rank: int | None  #: of the first passage that answers it, from 1; None: not among the best
    verbatim: bool  #: whether a passage that answers it stands under the very question
    quote: str | None  #: the sentences that answer; None: without vectors nobody can tell, or nothing was found


def chosen(items: Sequence[Example], most: int) -> list[Example]:
    """At most so many items, in their order; always the same ones, by their ids, which are hashes."""
    kept = {item.id for item in sorted(items, key=lambda item: item.id)[:most]}
    return [item for item in items if item.id in kept]


def retrieve(index: Path, config: Grounding, items: Sequence[Example]) -> list[Retrieved]:
    """What the index of a finished artifact holds and finds of each item.

    Raises:
        ArtifactError: if it cannot be read, or the vectors' model is not installed; ChildFailed if it does not answer.
    """
    found = []
    with Retriever(index, config) as retriever, closing(Embedder()) as embedder:
        for item, right in zip(items, right_passages(index / PASSAGES, items), strict=True):
            said = {(passage.headings, passage.text) for passage in right}
            best = [(hit.passage.headings, hit.passage.text) for hit in retriever.best(item.question, DEPTH)]
            given = retriever.find(item.question)
            found.append(
                Retrieved(
                    given=tuple(given),
                    right=right[0] if right else None,
                    verbatim=any(_holds(passage.headings, item.question) for passage in right),
                    rank=next((n for n, one in enumerate(best, 1) if one in said), None),
                    quote=quote(item.question, given, embedder).text if given and retriever.has_vectors else None,
                )
            )
    return found


def refused_elsewhere(index: Path, config: Grounding) -> list[bool]:
    """Of questions of other fields, which documents hardly ever answer: whether nothing good enough is found."""
    questions: list[str] = yaml.safe_load(Path(__file__).with_name("elsewhere.yaml").read_text(encoding="utf-8"))
    with Retriever(index, config) as retriever:
        return [not retriever.find(question) for question in questions]


def right_passages(passages: Path, items: Sequence[Example]) -> list[list[Passage]]:
    """The passages that answer each item, the best first: those that hold its whole answer, wherever they stand, else
    the one of its document with most of the answer's words, if it has half of them."""
    at = defaultdict[tuple[str, str, str], list[int]](list)
    for row, item in enumerate(items):
        at[item.source, item.location, item.position].append(row)
    answers = [words_of(item.answer) for item in items]
    whole = [row for row, words in enumerate(answers) if len(words) >= FEW]
    own: list[list[Passage]] = [[] for _ in items]
    holding: list[list[Passage]] = [[] for _ in items]
    for batch in pq.ParquetFile(passages).iter_batches(TOGETHER):
        for passage in (Passage(**values) for values in batch.to_pylist()):
            text = _padded(words_of(passage.text))
            for row in at.get((passage.source, passage.location, passage.position), ()):
                own[row].append(passage)
            for row in whole:
                if _padded(answers[row]) in text:
                    holding[row].append(passage)

    return [holding[row] or _nearest(set(answers[row]), own[row]) for row in range(len(items))]


def _holds(text: str, part: str) -> bool:
    return _padded(words_of(part)) in _padded(words_of(text))


def _padded(words: Sequence[str]) -> str:
    return f" {' '.join(words)} "


def _nearest(words: set[str], passages: Sequence[Passage]) -> list[Passage]:
    lacking = [(len(words - set(words_of(passage.text))), passage) for passage in passages]
    least, best = min(lacking, key=lambda one: one[0], default=(0, None))
    return [best] if best and 2 * least <= len(words) else []
