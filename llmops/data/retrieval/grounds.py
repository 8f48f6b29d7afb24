"""The passages that go into the prompt of a question, or the refusal if no passage is good enough.

found = look_up(index, "How long does delivery take?", config.grounding, room=2_000)
prompts.prompt_ids(tokenizer, question, found.context) if found.hits else REFUSAL
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from llmops.config import Collect, Grounding
from llmops.data.retrieval.minilm import Vectors
from llmops.data.retrieval.quote import quote
from llmops.data.retrieval.search import Hit, Index
from llmops.data.text.comparable import comparable
from llmops.data.text.sentences import within

REFUSAL = "I can't answer that from the documents."  #: the answer if no passage is good enough
SNIPPET = 200  #: most characters of a passage that are shown beside an answer
JUDGED = 10  #: best passages, of which the nearest decides whether the documents say anything
TOKEN_BYTES = 2  #: a token has more, in all but very dense texts; a digit or a byte outside of ASCII counts as a token
TEMPLATE_TOKENS = 128  #: that a chat template and the marks of the prompt take
LEAST_ROOM = 80  #: bytes of passages; a prompt with less room is answered without any

_SENT = ("csv", "parquet", "json", "jsonl", "xml", "sql", "chat", "dataset", "feedback")
_DENSE = re.compile(r"[^\x00-\x7f]+|[0-9]+")


@dataclass(frozen=True, slots=True)
class Found:
    """The passages that an answer rests on."""

    hits: tuple[Hit, ...]  #: the best first; none: the documents do not say
    context: str  #: of the prompt
    likeness: float | None  #: cosine of the question and the nearest passage; None: they were found by words alone
    quote: str = ""  #: the answer, if it is one without the model


def look_up(index: Index, question: str, config: Grounding, room: int, vector: Vectors | None = None) -> Found:
    """Return the passages that a model is to answer from.

    They are good enough if the nearest has a likeness of `grounding.likeness`; that one comes first. If no vectors were
    compared, passages that have words of the question are.

    Args:
        index: of the documents.
        question: as it was asked.
        config: how many passages are taken, and which are good enough.
        room: bytes that the prompt has left for passages, see `room_of`.
        vector: of the question, see `Index.embed`.

    Raises:
        ArtifactError: if the index is damaged, or the package of the vectors' model is not installed.
    """
    hits = index.search(question, max(JUDGED, config.passages), vector=vector)
    nearest = max(hits, key=lambda hit: -1.0 if hit.likeness is None else hit.likeness, default=None)
    likeness = nearest.likeness if nearest else None
    if nearest and likeness is not None:
        if likeness < config.likeness:
            return Found((), "", likeness)
        hits = [nearest, *(hit for hit in hits if hit is not nearest)]
    given = fit(hits[: config.passages], min(room, config.room))
    quoted = quote(index, question, given) if given and config.answer == "quote" else ""
    return Found(tuple(given), joined(given), likeness, quoted)


def room_of(window: int, max_new_tokens: int, prompt: str) -> int:
    """Return how many bytes of passages fit beside a prompt and its answer into a window of tokens, see `size_of`."""
    return TOKEN_BYTES * (window - max_new_tokens - TEMPLATE_TOKENS) - size_of(prompt)


def size_of(text: str) -> int:
    """Return the bytes of a text, those outside of ASCII and digits doubled: each may be a token."""
    dense = sum(len(match[0].encode()) for match in _DENSE.finditer(text))
    return len(text.encode()) + (TOKEN_BYTES - 1) * dense


def text_of(hit: Hit) -> str:
    """Return a passage as the model reads it: its headings and its text."""
    return ": ".join(filter(None, (hit.passage.headings, hit.passage.text)))


def joined(hits: Sequence[Hit]) -> str:
    """Return passages as a context of the prompt: one in each line."""
    return "\n".join(map(text_of, hits))


def sources_with_contexts(config: Collect) -> frozenset[str]:
    """Return the sources whose contexts callers send; the contexts of all others are paths of headings."""
    return frozenset(source.name for source in config.sources if source.kind in _SENT)


def refuses(answer: str) -> bool:
    """Return whether an answer is the refusal."""
    return comparable(answer, closing=False) == comparable(REFUSAL, closing=False)


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


def fit(hits: Sequence[Hit], room: int) -> list[Hit]:
    """Return the first hits that fit into `room` bytes; the first is cut if it does not fit alone."""
    kept = list[Hit]()
    for hit in hits:
        size = size_of(text_of(hit))
        if size > room:
            return kept or _cut(hit, room)
        kept.append(hit)
        room -= size + 1
    return kept


def _cut(hit: Hit, room: int) -> list[Hit]:
    """Return a hit whose text ends with a sentence or a word that fits; without its headings if they fill the room."""
    for headings in dict.fromkeys((hit.passage.headings, "")):
        text, most = hit.passage.text, room - size_of(f"{headings}: ")
        while text and (size := size_of(text)) > max(most, 0):
            text = within(text, len(text) * max(most, 0) // size)
        if text:
            return [replace(hit, passage=replace(hit.passage, headings=headings, text=text))]
    return []
