"""The passages that go into the prompt of a question, or the refusal if no passage is good enough.

found = retrieve_context(index, "How long does delivery take?", config.grounding, room=2_000)
prompts.encode_question(tokenizer, question, found.context) if found.hits else REFUSAL
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Any

from llmops.config import Collect, Grounding
from llmops.data.retrieval.minilm import Vectors
from llmops.data.retrieval.quote import quote_sentences
from llmops.data.retrieval.search import Hit, Index
from llmops.data.retrieval.terms import sum_shared_words
from llmops.data.text.normalization import normalize_text
from llmops.data.text.sentences import truncate_text
from llmops.frame.records import Example

REFUSAL = "I can't answer that from the documents."  #: the answer if no passage is good enough
MAX_SNIPPET_CHARS = 200  #: characters of a passage that are shown beside an answer
SEARCHED_PASSAGES = 10  #: passages that are searched; the best match decides if the documents have an answer
#: A rare word that question and passage share adds this to their likeness. By likeness alone, long questions are
#: refused as often as questions that the documents do not answer.
RARE_WORD = 0.12
#: More rare words add nothing. Without this bound half of 240 messages to a bank, each of four, matched four manuals;
#: with it 18 % did, and of 135 questions that the manuals answer one more was refused.
MAX_RARE_WORDS = 2.0
TOKEN_BYTES = 2  #: least bytes of a token, except that digits and bytes outside of ASCII count as a token each
TEMPLATE_TOKENS = 128  #: tokens of a chat template and of the prompt's markers
MIN_ROOM = 80  #: bytes for passages, the least that are worth it
#: Bytes for passages beside a prompt that seems to leave no room. `compute_room` counts about twice the tokens that a
#: prompt has. So most such prompts fit with a short passage, and the engine, which counts, refuses the others.
TIGHT_ROOM = 600

#: kinds of sources whose contexts a caller sends with a question
_CALLER_CONTEXT_KINDS = ("csv", "parquet", "json", "jsonl", "xml", "sql", "chat", "dataset", "feedback")
_DENSE_TEXT = re.compile(r"[^\x00-\x7f]+|[0-9]+")


@dataclass(frozen=True, slots=True)
class RetrievedContext:
    """The passages that an answer rests on."""

    #: the passages of the prompt, the best first, or the quoted ones in the quote's order; empty: the documents have no
    #: answer
    hits: tuple[Hit, ...]
    context: str  #: the context for the prompt
    match: float | None  #: match of the best passage, see `measure_matches`; None: they were found by words alone
    quote: str = ""  #: the quoted answer, if `grounding.answer` is `quote`


def retrieve_context(
    index: Index, question: str, config: Grounding, room: int, vector: Vectors | None = None
) -> RetrievedContext:
    """Return the passages that a model should answer from.

    They are good enough if the best match (see `measure_matches`) is at least `grounding.likeness`. If that is not set,
    the value counts that was chosen for the index. The best match comes first. If no vectors were compared, every
    passage with words of the question is good enough.

    Args:
        index: the index of the documents.
        question: the user's question.
        config: how many passages are taken, and which are good enough.
        room: bytes that the prompt has left for passages, see `compute_room`.
        vector: the question's vector, see `Index.embed`; None: it is computed.

    Raises:
        ArtifactError: if the index is damaged, or the package of the vectors' model is not installed.
    """
    hits = index.search(question, max(SEARCHED_PASSAGES, config.passages), vector=vector)
    weights = index.weigh_words(question) if hits else {}
    match: float | None = None
    if matches := measure_matches(hits, weights):
        best, match = max(matches, key=itemgetter(1))
        if match < (index.likeness if config.likeness is None else config.likeness):
            return RetrievedContext((), "", match)
        hits = [best, *(hit for hit in hits if hit is not best)]
    fitting = select_fitting(hits[: config.passages], min(room, config.room))
    quote, named = "", fitting
    if fitting and config.answer == "quote":
        quote, quoted = quote_sentences(index, question, fitting, weights)
        named = quoted or fitting
    return RetrievedContext(tuple(named), format_context(fitting), match, quote)


def retrieve_for_item(
    index: Index,
    item: Example,
    config: Grounding,
    context_sources: Collection[str],
    window: int | None,
    max_new_tokens: int,
) -> RetrievedContext | None:
    """Return the passages that the app would find for an item of a test; None if it is asked without documents.

    Args:
        index: the index of the documents.
        item: the item. Its context stays if a caller would send it.
        config: see `retrieve_context`.
        context_sources: see `find_sources_with_contexts`.
        window: tokens of a prompt and its answer in serving, without the system prompt; None: answers are quotes, so
            that passages are in no prompt.
        max_new_tokens: of an answer.
    """
    room = config.room if window is None else compute_room(window, max_new_tokens, item.question)
    if (item.context and item.source in context_sources) or room < MIN_ROOM:
        return None
    return retrieve_context(index, item.question, config, room)


def compute_window(max_context: int, system_prompt: str) -> int:
    """Return the tokens of a prompt and its answer in serving, without the system prompt."""
    return max_context - math.ceil(measure_bytes(system_prompt) / TOKEN_BYTES)


def measure_matches(hits: Sequence[Hit], weights: Mapping[str, float]) -> list[tuple[Hit, float]]:
    """Return how well each passage matches a question. Passages whose vectors were not compared are left out.

    It is the cosine of question and passage, plus `RARE_WORD` for each rare word of the question that the passage has.
    A word that is less rare counts less, and all together count as `MAX_RARE_WORDS` at most.

    Args:
        hits: passages that were found for the question.
        weights: the words of the question with their rarity, see `Index.weigh_words`.
    """
    compared = [hit for hit in hits if hit.likeness is not None]
    shared = sum_shared_words(weights, [f"{hit.passage.headings} {hit.passage.text}" for hit in compared])
    return [
        (hit, (hit.likeness or 0) + RARE_WORD * min(words, MAX_RARE_WORDS))
        for hit, words in zip(compared, shared, strict=True)
    ]


def compute_room(max_tokens: int, max_new_tokens: int, prompt: str) -> int:
    """Return the bytes that are left for passages, by `measure_bytes`, beside a prompt and its answer.

    `max_tokens` is the window of prompt and answer together.
    """
    return TOKEN_BYTES * (max_tokens - max_new_tokens - TEMPLATE_TOKENS) - measure_bytes(prompt)


def measure_bytes(text: str) -> int:
    """Return the bytes of a text. Digits and bytes outside of ASCII count double, because each may be a token."""
    dense = sum(len(match[0].encode()) for match in _DENSE_TEXT.finditer(text))
    return len(text.encode()) + (TOKEN_BYTES - 1) * dense


def format_hit(hit: Hit) -> str:
    """Return a passage as the model reads it: its headings and its text."""
    return ": ".join(filter(None, (hit.passage.headings, hit.passage.text)))


def format_context(hits: Sequence[Hit]) -> str:
    """Return the context for the prompt: one passage per line."""
    return "\n".join(map(format_hit, hits))


def find_sources_with_contexts(config: Collect) -> frozenset[str]:
    """Return the names of the sources whose contexts callers send. Contexts of other sources are paths of headings."""
    return frozenset(source.name for source in config.sources if source.kind in _CALLER_CONTEXT_KINDS)


def is_fixed_refusal(answer: str) -> bool:
    """Return whether an answer is `REFUSAL`."""
    return normalize_text(answer, keep_closing=False) == normalize_text(REFUSAL, keep_closing=False)


def describe_source(hit: Hit) -> dict[str, Any]:
    """Return the description of a passage that is shown beside an answer: id, title, location, snippet, score."""
    passage = hit.passage
    snippet = truncate_text(passage.text, MAX_SNIPPET_CHARS)
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


def select_fitting(hits: Sequence[Hit], room: int) -> list[Hit]:
    """Return the first hits that fit into `room` bytes. The first one is shortened if it does not fit alone."""
    fitting = list[Hit]()
    for hit in hits:
        size = measure_bytes(format_hit(hit))
        if size > room:
            return fitting or _shorten_hit(hit, room)
        fitting.append(hit)
        room -= size + 1
    return fitting


def _shorten_hit(hit: Hit, room: int) -> list[Hit]:
    """Return the hit with a shorter text that fits, ending with a sentence or a word; empty if none fits.

    The headings are left out if they fill the room.
    """
    for headings in dict.fromkeys((hit.passage.headings, "")):
        text, max_bytes = hit.passage.text, room - measure_bytes(f"{headings}: ")
        while text and (size := measure_bytes(text)) > max(max_bytes, 0):
            text = truncate_text(text, len(text) * max(max_bytes, 0) // size)
        if text:
            return [replace(hit, passage=replace(hit.passage, headings=headings, text=text))]
    return []
