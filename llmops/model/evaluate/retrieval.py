"""The frozen test with retrieved passages, as callers would ask it, and figures of the retrieval.

A context that a caller would send stays. A path of headings is no such context, so its question is looked up.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from llmops.config import Collect, Grounding
from llmops.data.retrieval.example_passages import ExamplePassages, find_answering_passages
from llmops.data.retrieval.grounding import (
    REFUSAL,
    SEARCHED_PASSAGES,
    find_sources_with_contexts,
    format_hit,
    retrieve_for_item,
)
from llmops.data.retrieval.search import Hit, open_index
from llmops.frame.records import Example, Passage
from llmops.model.scoring.answers import QuestionSet
from llmops.model.scoring.tasks import Columns

RETRIEVAL_METRICS = ("recall_at_1", "recall_at_5", "mrr")  #: figures of items whose documents are indexed
#: refusals of items whose documents are indexed, and of the others
WRONGLY_REFUSED, RIGHTLY_REFUSED = "wrongly_refused", "rightly_refused"


@dataclass(frozen=True, slots=True)
class GroundedTest:
    """The test with documents, and figures of the retrieval."""

    system: QuestionSet  #: with the retrieved passages
    other_mode: QuestionSet  #: the same with the other `grounding.answer`: quoted, or answered by the model
    right_passages: QuestionSet  #: with the right passage, where the item's document is indexed
    columns: Columns  #: figure of the retrieval → one value per item; None without a lookup


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

    An item's own documents are those of all examples with its topic and its answer. A refusal is right if none of them
    is indexed. If several pages have the text, each of them counts as found.

    Args:
        index: a finished artifact.
        annotate: the artifact with the test.
        items: the test.
        config: says which passages are good enough.
        collect: says which sources have contexts that a caller would send.
        window: tokens of a prompt and its answer in serving.
        max_new_tokens: of an answer.
    """
    context_sources, quoting = find_sources_with_contexts(collect), config.model_copy(update={"answer": "quote"})
    room_window = None if config.answer == "quote" else window
    system_items, right_passages = list(items), list(items)
    columns: Columns = {name: [None] * len(items) for name in (*RETRIEVAL_METRICS, WRONGLY_REFUSED, RIGHTLY_REFUSED)}
    quotes: dict[int, str] = {}
    with open_index(index) as opened, closing(ExamplePassages(index, annotate)) as own:
        for n, item in enumerate(items):
            retrieved = retrieve_for_item(opened, item, quoting, context_sources, room_window, max_new_tokens)
            if retrieved is None:
                continue
            own_passages = own.find_passages(item)
            system_items[n] = right_passages[n] = replace(item, context=retrieved.context or item.context)
            quotes[n] = retrieved.quote
            columns[WRONGLY_REFUSED if own_passages else RIGHTLY_REFUSED][n] = float(not retrieved.hits)
            if own_passages:
                nearest, *_ = find_answering_passages(item.answer, own_passages)
                right_passages[n] = replace(item, context=format_hit(Hit(nearest, 0, None, None, None)))
                rank = _find_rank(opened.search(item.question, SEARCHED_PASSAGES), own_passages)
                for name, value in zip(
                    RETRIEVAL_METRICS, (rank == 1, 1 <= rank <= 5, 1 / rank if rank else 0), strict=True
                ):
                    columns[name][n] = float(value)
    wrong_refusals, right_refusals = (
        {n: REFUSAL for n, refused in enumerate(columns[name]) if refused}
        for name in (WRONGLY_REFUSED, RIGHTLY_REFUSED)
    )
    by_model, quoted = (
        QuestionSet(system_items, known | wrong_refusals | right_refusals) for known in (dict[int, str](), quotes)
    )
    system, other_mode = (quoted, by_model) if config.answer == "quote" else (by_model, quoted)
    return GroundedTest(system, other_mode, QuestionSet(right_passages, right_refusals), columns)


def _find_rank(hits: Sequence[Hit], own: Sequence[Passage]) -> int:
    """Return the rank, from 1, of the first hit that is one of these passages; 0 if there is none."""
    documents, texts = {passage.document for passage in own}, {passage.text for passage in own}
    ranks = enumerate((hit.passage for hit in hits), 1)
    return next((rank for rank, one in ranks if one.document in documents or one.text in texts), 0)
