"""Training examples with the contexts that retrieval gives, so that a model learns to answer from passages.

This is the idea of RAFT (Zhang et al. 2024, arXiv:2403.10131): the right passage stands between others, and where it is
missing the right answer is the refusal.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from llmops.config import Grounding
from llmops.data.features.examples import read_examples
from llmops.data.retrieval.grounds import (
    JUDGED,
    LEAST_ROOM,
    REFUSAL,
    TOKEN_BYTES,
    fit,
    joined,
    look_up,
    room_of,
    size_of,
)
from llmops.data.retrieval.own import nearest_to, own_passages, said
from llmops.data.retrieval.search import Hit, Index
from llmops.data.text.comparable import comparable
from llmops.frame.records import Example, Passage

REFUSED = 10  #: one of so many examples loses its right passages, and is answered by the refusal


def documents_of_test(index: Path, annotate: Path) -> set[str]:
    """Return the documents that answer the test. Their passages are no distractors in training."""
    found = own_passages(index, annotate, read_examples(annotate / "test.parquet"))
    return {passage.document for some in found.values() for passage in some}


def with_passages(
    examples: Sequence[Example],
    index: Index,
    folder: Path,
    annotate: Path,
    sent: frozenset[str],
    tested: Collection[str],
    config: Grounding,
    window: int,
) -> Iterator[Example]:
    """Yield the examples with the passages that serving would find for their questions.

    The passages of the documents that have an example's answer are the right ones. If retrieval misses the one with the
    answer, it takes a place among the others. It does so, too, if it is found because its heading is the question word
    for word, and half of these examples have no headings: a model that has only learned to copy from below the same
    words cannot answer other wordings.

    An example stays as it is if no such document is indexed, if its prompt leaves no room, or if its source is one of
    `sent`, whose contexts callers send.

    Args:
        examples: for training or validation.
        index: of the documents.
        folder: its artifact.
        annotate: the artifact with the examples.
        sent: sources.
        tested: documents whose passages are left out unless they are right, see `documents_of_test`.
        config: how many passages are taken.
        window: tokens of a prompt and its answer in serving.
    """
    own = own_passages(folder, annotate, examples)
    for example in examples:
        right = own[said(example)]
        room = room_of(window, size_of(example.answer) // TOKEN_BYTES, example.question)
        looked_up = right and room >= LEAST_ROOM and not (example.context and example.source in sent)
        fitting = config.model_copy(update={"room": min(room, config.room)})
        yield _grounded(example, right, index, tested, fitting) if looked_up else example


def _grounded(
    example: Example, right: Sequence[Passage], index: Index, tested: Collection[str], config: Grounding
) -> Example:
    wide = config.model_copy(update={"passages": JUDGED, "room": sys.maxsize, "likeness": 0})
    nearest, texts, drawn = nearest_to(example.answer, right), {one.text for one in right}, random.Random(example.id)
    hits = [
        hit
        for hit in look_up(index, example.question, wide, sys.maxsize).hits
        if hit.passage.text in texts or hit.passage.document not in tested
    ]
    others = [hit for hit in hits if hit.passage.text not in texts]
    if others and drawn.randrange(REFUSED) == 0:
        return replace(example, context=joined(fit(others[: config.passages], config.room)), answer=REFUSAL)
    given = fit(hits[: config.passages], config.room)
    asked = comparable(example.question, closing=False)
    verbatim = any(comparable(hit.passage.headings, closing=False).endswith(asked) for hit in given)
    if verbatim or all(hit.passage.text != nearest.text for hit in given):
        rest = [hit for hit in hits if hit.passage.text != nearest.text]
        first, *given = fit([Hit(nearest, 0.0, None, None, None), *rest][: config.passages], config.room)
        given.insert(drawn.randint(0, len(given)), first)
    if verbatim and drawn.randrange(2):
        given = [replace(hit, passage=replace(hit.passage, headings="")) for hit in given]
    return replace(example, context=joined(given))
