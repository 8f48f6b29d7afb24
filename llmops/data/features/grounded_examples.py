"""Training examples with the contexts that retrieval gives, so that a model learns to answer from passages.

This is the idea of RAFT (Zhang et al. 2024, arXiv:2403.10131): the right passage stands between others, and where it is
missing the right answer is the refusal.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from llmops.config import Grounding
from llmops.data.retrieval.example_passages import ExamplePassages, find_answering_passages, measure_coverage
from llmops.data.retrieval.grounding import (
    MIN_ROOM,
    REFUSAL,
    SEARCHED_PASSAGES,
    TOKEN_BYTES,
    compute_room,
    format_context,
    measure_bytes,
    retrieve_context,
    select_fitting,
)
from llmops.data.retrieval.search import Hit, Index
from llmops.data.text.normalization import normalize_text
from llmops.frame.records import Example, Passage

REFUSAL_EVERY = 10  #: one of so many examples loses its right passages, and its answer becomes the refusal
MIN_ANSWER_SHARE = 0.6  #: least share of an answer's content words that must be in the passages of its prompt

#: outcomes of an example: with its right passages, without them, as it was, and not to be trained on
GROUNDED, REFUSED, UNCHANGED, NOT_IN_PASSAGES = "grounded", "refused", "unchanged", "not_in_passages"


@dataclass(frozen=True, slots=True)
class Retrieval:
    """The index, and the settings by which serving finds passages for a prompt."""

    index: Index
    own: ExamplePassages  #: the passages of each example's own documents
    #: documents that answer the test; their passages are left out unless they are right
    test_documents: Collection[str]
    sent_sources: Collection[str]  #: sources whose contexts callers send
    config: Grounding
    window: int  #: tokens of a prompt and its answer in serving
    fits: Callable[[Example], bool]  #: returns True if an example is short enough to be trained on


def add_passages(examples: Sequence[Example], retrieval: Retrieval) -> Iterator[tuple[Example, str]]:
    """Yield the examples with the passages that serving would find for their questions.

    The passages of an example's own documents are the right ones. If retrieval misses those that hold the answer, they
    take a place among the others. They do so, too, if the question is the heading of one word for word, and half of
    these examples have no headings: a model that has only learned to copy from below the same words cannot answer
    other wordings. If there is too little room, other passages give way first.

    An example is unchanged if none of its documents is indexed, if its prompt leaves no room, or if callers send its
    context.
    """
    vectors = retrieval.index.embed([example.question for example in examples])
    for example, vector in zip(examples, vectors, strict=True):
        room = compute_room(retrieval.window, measure_bytes(example.answer) // TOKEN_BYTES, example.question)
        is_sent = example.context and example.source in retrieval.sent_sources
        if is_sent or room < MIN_ROOM or not (right := retrieval.own.find_passages(example)):
            yield example, UNCHANGED
            continue
        config = retrieval.config
        unlimited = {
            "passages": max(SEARCHED_PASSAGES, config.passages),
            "room": sys.maxsize,
            "likeness": 0,
            "answer": "model",
        }
        found = retrieve_context(
            retrieval.index, example.question, config.model_copy(update=unlimited), sys.maxsize, vector
        )
        yield _add_to_example(example, right, found.hits, min(room, config.room), retrieval)


def _add_to_example(
    example: Example, right: Sequence[Passage], found: Sequence[Hit], room: int, retrieval: Retrieval
) -> tuple[Example, str]:
    most, rng = retrieval.config.passages, random.Random(example.id)
    own, texts = {*retrieval.own.find_documents(example)}, {passage.text for passage in right}

    def is_right(hit: Hit) -> bool:
        return hit.passage.document in own or hit.passage.text in texts

    hits = [hit for hit in found if is_right(hit) or hit.passage.document not in retrieval.test_documents]
    others = [hit for hit in hits if not is_right(hit)]
    if others and rng.randrange(REFUSAL_EVERY) == 0:
        no_answer = replace(example, answer=REFUSAL)
        refused = _fit_passages(no_answer, select_fitting(others[:most], room), (), retrieval.fits)
        if retrieval.fits(refused) and measure_coverage(example.answer, refused.context) < MIN_ANSWER_SHARE:
            return refused, REFUSED
    holding = [Hit(passage, 0.0, None, None, None) for passage in find_answering_passages(example.answer, right)]
    needed = {hit.passage.text for hit in holding}
    given = select_fitting(hits[:most], room)
    question = normalize_text(example.question, keep_closing=False)
    verbatim = any(normalize_text(hit.passage.headings, keep_closing=False).endswith(question) for hit in given)
    if verbatim or not needed <= {hit.passage.text for hit in given}:
        kept = select_fitting([*holding, *(hit for hit in hits if hit.passage.text not in needed)][:most], room)
        rest, order = kept[len(holding) :], [passage.id for passage in right]
        position = rng.randint(0, len(rest))
        rest[position:position] = sorted(kept[: len(holding)], key=lambda hit: order.index(hit.passage.id))
        given = rest
    if verbatim and rng.randrange(2):
        given = [replace(hit, passage=replace(hit.passage, headings="")) for hit in given]
    grounded = _fit_passages(example, given, needed, retrieval.fits)
    usable = retrieval.fits(grounded) and measure_coverage(example.answer, grounded.context) >= MIN_ANSWER_SHARE
    return (grounded, GROUNDED) if usable else (example, NOT_IN_PASSAGES)


def _fit_passages(
    example: Example, hits: Sequence[Hit], needed: Collection[str], fits: Callable[[Example], bool]
) -> Example:
    """Return an example with the passages that fit. The last ones are removed first, those with needed texts last."""
    given = list(hits)
    while len(given) > 1 and not fits(replace(example, context=format_context(given))):
        given.remove(next((hit for hit in reversed(given) if hit.passage.text not in needed), given[-1]))
    return replace(example, context=format_context(given))
