"""The frozen test as callers would ask it: with the passages that retrieval gives, or refused by it.

A context that a caller would send stays. A path of headings is none: a question with one is looked up.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from llmops.config import Collect, Grounding
from llmops.data.retrieval.grounds import (
    JUDGED,
    LEAST_ROOM,
    REFUSAL,
    look_up,
    room_of,
    sources_with_contexts,
    text_of,
)
from llmops.data.retrieval.own import OwnPassages, find_holding
from llmops.data.retrieval.search import Hit, open_index
from llmops.frame.records import Example, Passage
from llmops.model.scoring.answered import Asked
from llmops.model.scoring.tasks import Columns

FOUND = ("recall_at_1", "recall_at_5", "mrr")  #: figures of items whose documents are indexed
WRONG, RIGHT = "wrongly_refused", "rightly_refused"  #: of items whose documents are indexed, or not


@dataclass(frozen=True, slots=True)
class GroundedTest:
    """The test with documents, and figures of the retrieval."""

    system: Asked  #: with what retrieval gives
    otherwise: Asked  #: the same with the other `grounding.answer`: quoted, or answered by the model
    right: Asked  #: with the right passage, where the item's document is indexed
    columns: Columns  #: figure of the retrieval → one value per item; none if it was not looked up


def ground_test(
    index: Path,
    annotate: Path,
    items: Sequence[Example],
    config: Grounding,
    collect: Collect,
    window: int,
    max_new_tokens: int,
) -> GroundedTest:
    """Look up each item's question as serving does.

    An item's own documents are the ones of all examples that have its topic and its answer. A refusal is right if none
    of them is indexed. A text that stands on several pages counts wherever it was found.

    Args:
        index: a finished artifact.
        annotate: the artifact with the test.
        items: the test.
        config: what is good enough to answer from.
        collect: says which sources have contexts that a caller would send.
        window: tokens of a prompt and its answer in serving.
        max_new_tokens: of an answer.
    """
    sent, quoting = sources_with_contexts(collect), config.model_copy(update={"answer": "quote"})
    found, right = list(items), list(items)
    columns: Columns = {name: [None] * len(items) for name in (*FOUND, WRONG, RIGHT)}
    quotes: dict[int, str] = {}
    with open_index(index) as opened, closing(OwnPassages(index, annotate)) as own:
        for n, item in enumerate(items):
            room = room_of(window, max_new_tokens, item.question)
            if (item.context and item.source in sent) or room < LEAST_ROOM:
                continue
            given, theirs = look_up(opened, item.question, quoting, room), own.passages(item)
            found[n] = right[n] = replace(item, context=given.context or item.context)
            quotes[n] = given.quote
            columns[WRONG if theirs else RIGHT][n] = float(not given.hits)
            if theirs:
                nearest, *_ = find_holding(item.answer, theirs)
                right[n] = replace(item, context=text_of(Hit(nearest, 0, None, None, None)))
                rank = _rank(opened.search(item.question, JUDGED), theirs)
                for name, value in zip(FOUND, (rank == 1, 1 <= rank <= 5, 1 / rank if rank else 0), strict=True):
                    columns[name][n] = float(value)
    wrongly, rightly = ({n: REFUSAL for n, refused in enumerate(columns[name]) if refused} for name in (WRONG, RIGHT))
    by_model, quoted = (Asked(found, known | wrongly | rightly) for known in (dict[int, str](), quotes))
    system, otherwise = (quoted, by_model) if config.answer == "quote" else (by_model, quoted)
    return GroundedTest(system, otherwise, Asked(right, rightly), columns)


def _rank(hits: Sequence[Hit], own: Sequence[Passage]) -> int:
    """Return the rank of the first hit that is one of these passages, from 1; 0: none is."""
    documents, texts = {passage.document for passage in own}, {passage.text for passage in own}
    ranks = enumerate((hit.passage for hit in hits), 1)
    return next((rank for rank, one in ranks if one.document in documents or one.text in texts), 0)
