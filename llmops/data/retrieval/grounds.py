"""What the documents say about a question: the passages that go into its prompt, or the refusal.

found = look_up(index, "How long does delivery take?", config.grounding, room=2_000)
prompts.prompt_ids(tokenizer, question, found.context) if found.hits else REFUSAL
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llmops.config import Grounding
from llmops.data.retrieval.search import Hit, Index
from llmops.data.text.sentences import within

REFUSAL = "I can't answer that from the documents."  #: the answer if no passage is good enough
SNIPPET = 200  #: most characters of a passage that are shown beside an answer
JUDGED = 10  #: best passages, of which the nearest decides whether the documents say anything
TOKEN_BYTES = 2  #: a token has more, in all but very dense texts
LEAST_ROOM = 80  #: bytes of a passage; if a prompt has less room, its engine refuses it with exact counts


@dataclass(frozen=True, slots=True)
class Found:
    """The passages that an answer rests on."""

    hits: tuple[Hit, ...]  #: the best first; none: the documents do not say
    context: str  #: of the prompt
    likeness: float | None  #: cosine of the question and the nearest passage; None: they were found by words alone


def look_up(index: Index, question: str, config: Grounding, room: int) -> Found:
    """Return the passages that a model is to answer from.

    They are good enough if the nearest has a likeness of `grounding.likeness`. If no vectors were compared, passages
    that have words of the question are.

    Args:
        index: of the documents.
        question: as it was asked.
        config: how many passages are taken, and which are good enough.
        room: bytes that the prompt has left for passages, see `room_of`.

    Raises:
        ArtifactError: if the index is damaged, or the package of the vectors' model is not installed.
    """
    hits = index.search(question, max(JUDGED, config.passages))
    likeness = max((hit.likeness for hit in hits if hit.likeness is not None), default=None)
    if likeness is not None and likeness < config.likeness:
        return Found((), "", likeness)
    texts = _fit([said(hit) for hit in hits[: config.passages]], max(min(room, config.room), LEAST_ROOM))
    return Found(tuple(hits[: len(texts)]), "\n".join(texts), likeness)


def room_of(window: int, max_new_tokens: int, prompt: str) -> int:
    """Return how many bytes of passages surely fit beside a prompt and its answer into a window of tokens."""
    return TOKEN_BYTES * (window - max_new_tokens) - len(prompt.encode())


def said(hit: Hit) -> str:
    """Return a passage as a model reads it: its headings, and its text."""
    return ": ".join(filter(None, (hit.passage.headings, hit.passage.text)))


def source_of(hit: Hit) -> dict[str, Any]:
    """Return a passage as it is shown beside an answer: id, title, place, snippet, score."""
    passage = hit.passage
    snippet = within(passage.text, SNIPPET)
    return {
        "id": passage.id,
        "title": passage.headings or passage.title or passage.source,
        "source": passage.source,
        "location": passage.location,
        "position": passage.position,
        "licence": passage.licence,
        "snippet": snippet if snippet == passage.text else f"{snippet} …",
        "score": hit.likeness,
    }


def _fit(texts: Sequence[str], room: int) -> list[str]:
    """Return the first texts that fit; the first is cut at a sentence or a word if it does not fit alone."""
    kept = list[str]()
    for text in texts:
        size = len(text.encode())
        if size > room:
            return kept or [within(text, room * len(text) // size)]
        kept.append(text)
        room -= size + 1
    return kept
