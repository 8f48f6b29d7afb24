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
from llmops.data.retrieval.own import OwnPassages, find_holding, measure_held
from llmops.data.retrieval.search import Hit, Index
from llmops.data.text.comparable import comparable
from llmops.frame.records import Example, Passage

REFUSED = 10  #: one of so many examples loses its right passages, and is answered by the refusal
LEAST_HELD = 0.6  #: share of an answer's content words that the passages of its prompt have

#: outcomes of an example: with its right passages, without them, as it was, and not to be trained on
GROUNDED, REFUSING, UNCHANGED, NOT_HELD = "grounded", "refused", "unchanged", "not_in_passages"


@dataclass(frozen=True, slots=True)
class Retrieval:
    """The documents, and how serving finds passages for a prompt."""

    index: Index
    own: OwnPassages
    tested: Collection[str]  #: documents that answer the test; their passages are left out unless they are right
    sent: Collection[str]  #: sources whose contexts callers send
    config: Grounding
    window: int  #: tokens of a prompt and its answer in serving
    fits: Callable[[Example], bool]  #: whether an example is short enough to be trained on


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
        room = room_of(retrieval.window, size_of(example.answer) // TOKEN_BYTES, example.question)
        is_sent = example.context and example.source in retrieval.sent
        if is_sent or room < LEAST_ROOM or not (right := retrieval.own.passages(example)):
            yield example, UNCHANGED
            continue
        config = retrieval.config
        all_found = {"passages": max(JUDGED, config.passages), "room": sys.maxsize, "likeness": 0, "answer": "model"}
        found = look_up(retrieval.index, example.question, config.model_copy(update=all_found), sys.maxsize, vector)
        yield _add(example, right, found.hits, min(room, config.room), retrieval)


def _add(
    example: Example, right: Sequence[Passage], found: Sequence[Hit], room: int, retrieval: Retrieval
) -> tuple[Example, str]:
    most, drawn = retrieval.config.passages, random.Random(example.id)
    own, texts = {*retrieval.own.documents(example)}, {passage.text for passage in right}

    def is_right(hit: Hit) -> bool:
        return hit.passage.document in own or hit.passage.text in texts

    hits = [hit for hit in found if is_right(hit) or hit.passage.document not in retrieval.tested]
    others = [hit for hit in hits if not is_right(hit)]
    if others and drawn.randrange(REFUSED) == 0:
        refused = _shorten(replace(example, answer=REFUSAL), fit(others[:most], room), (), retrieval.fits)
        if retrieval.fits(refused) and measure_held(example.answer, refused.context) < LEAST_HELD:
            return refused, REFUSING
    holding = [Hit(passage, 0.0, None, None, None) for passage in find_holding(example.answer, right)]
    needed = {hit.passage.text for hit in holding}
    given = fit(hits[:most], room)
    asked = comparable(example.question, closing=False)
    verbatim = any(comparable(hit.passage.headings, closing=False).endswith(asked) for hit in given)
    if verbatim or not needed <= {hit.passage.text for hit in given}:
        kept = fit([*holding, *(hit for hit in hits if hit.passage.text not in needed)][:most], room)
        rest, order = kept[len(holding) :], [passage.id for passage in right]
        at = drawn.randint(0, len(rest))
        rest[at:at] = sorted(kept[: len(holding)], key=lambda hit: order.index(hit.passage.id))
        given = rest
    if verbatim and drawn.randrange(2):
        given = [replace(hit, passage=replace(hit.passage, headings="")) for hit in given]
    grounded = _shorten(example, given, needed, retrieval.fits)
    held = retrieval.fits(grounded) and measure_held(example.answer, grounded.context) >= LEAST_HELD
    return (grounded, GROUNDED) if held else (example, NOT_HELD)


def _shorten(
    example: Example, hits: Sequence[Hit], needed: Collection[str], fits: Callable[[Example], bool]
) -> Example:
    """Return an example with the passages that fit: the last ones go first, those with needed texts last."""
    given = list(hits)
    while len(given) > 1 and not fits(replace(example, context=joined(given))):
        given.remove(next((hit for hit in reversed(given) if hit.passage.text not in needed), given[-1]))
    return replace(example, context=joined(given))
