"""Answers from the documents: the passages found for a question go into its prompt, and are listed beside its answer.

If no passage is good enough, the answer is a refusal, and no model is used. Neither is it where answers are quotes
(`grounding.answer`). In a later turn of a conversation the model
answers without documents instead, unless the caller insists on them, because thanks and follow-ups are not about
documents. Passages are not the caller's words: the guard lets an answer repeat only text that the caller wrote, and
kept texts hold no passages.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from fastapi import Request

from llmops.data.retrieval.grounding import (
    MIN_ROOM,
    REFUSAL,
    RetrievedContext,
    compute_room,
    describe_source,
    format_hit,
)
from llmops.data.retrieval.search import Hit
from serving.admission.dependencies import AppParts
from serving.admission.limits import MESSAGE_TOKENS
from serving.answers.schemas import Source
from serving.engines.base import Chat, Chunk, EngineRequest, Prompt, Question, Stream
from serving.errors import DocumentsDown, NoDocuments, PromptRefused, PromptTooLong, QueueFull, TimedOut
from serving.guard import Guard
from serving.models.stream import GuardedStream


class Grounds(NamedTuple):
    """The passages that an answer rests on."""

    found: RetrievedContext
    sources: list[Source]  #: the passages in the form that is shown beside the answer

    @property
    def ready_answer(self) -> str:
        """Return the answer that needs no model, a refusal or a quote; empty if the model is to answer."""
        return self.found.quote if self.found.hits else REFUSAL

    def add_passages(self, request: EngineRequest) -> EngineRequest:
        """Return a request to an engine with the passages in its prompt."""
        prompt = request.prompt
        if isinstance(prompt, Question):
            return replace(request, prompt=replace(prompt, context=self.found.context))
        assert isinstance(prompt, Chat)
        last = replace(prompt.messages[-1], context=self.found.context)
        return replace(request, prompt=Chat((*prompt.messages[:-1], last)))


async def find_grounds(
    request: Request, app: AppParts, wanted: bool | None, plain: EngineRequest, *, caller: str, side: str
) -> Grounds | None:
    """Return the passages for an answer; None if it rests on no documents. Note the outcome in the request's event.

    Args:
        request: the HTTP request.
        app: the parts of the app.
        wanted: the request's `ground`; None: ground the answer if an index is served.
        plain: the request to the engine, without passages.
        caller: the key's `answered_to`.
        side: the side that the caller asks for, see `Models.choose`.

    Raises:
        NotReady, VersionNotLoaded: see `Models.choose`.
        PromptRefused: if `wanted` is true for a prompt that has its own context, asks nothing, or leaves no room.
        NoDocuments: if `wanted` is true and `grounding.enabled` is off or no index is served.
        DocumentsDown, QueueFull, TimedOut: if `wanted` is true, see `Documents.look_up`.
    """
    question = _extract_question(plain.prompt)
    if wanted and not question:
        raise PromptRefused("With `ground: true`, ask a question without a context, or end with the user's turn.")
    if wanted and not app.config.grounding.enabled:
        raise NoDocuments
    if not question or wanted is False or not app.config.grounding.enabled:
        return None
    turns = [m.content for m in plain.prompt.messages] if isinstance(plain.prompt, Chat) else [question]
    taken = plain.max_new_tokens + MESSAGE_TOKENS * len(turns)
    room = compute_room(app.config.serving.max_context, taken, app.models.system_prompt + "\n".join(turns))
    if wanted and room < MIN_ROOM:
        raise PromptTooLong(
            "The prompt leaves no room for passages of the documents: shorten it, or leave `ground` out."
        )
    event, version = request.state.event, app.models.choose(caller, side).version
    try:
        found = await app.documents.look_up(question, room, version.answer)
    except (DocumentsDown, QueueFull, TimedOut):
        if wanted:
            raise
        event["llmops.retrieval.outcome"] = "down"
        return None
    if found is None:
        if wanted:
            raise NoDocuments
        event["llmops.retrieval.outcome"] = "no_index"
        return None
    hits = found.hits
    if not wanted and (room < MIN_ROOM or not (hits or len(turns) == 1)):
        event["llmops.retrieval.outcome"] = "none"
        return None
    event["llmops.retrieval.passages"] = [hit.passage.id for hit in hits]
    event["llmops.retrieval.documents"] = list(dict.fromkeys(hit.passage.document for hit in hits))
    event["llmops.retrieval.outcome"] = "found" if hits else "refused"
    return Grounds(found, [_make_source(app.guard, plain.prompt, hit) for hit in hits])


def _make_source(guard: Guard, prompt: Prompt, hit: Hit) -> Source:
    """Return the source of a hit. Hide its words if the guard would cut an answer with them."""
    source = Source(**describe_source(hit))
    passed = guard.make_filter(prompt).feed(Chunk(f"{source.title}\n{format_hit(hit)}", 0, 0, "stop"))
    if passed.finish_reason == "stop":
        return source
    return source.model_copy(update={"title": source.source, "snippet": ""})


def stream_ready_answer(app: AppParts, text: str, prompt: Prompt, caller: str, side: str) -> GuardedStream:
    """Return a text as the answer of the version that would have answered. It counts in no trial.

    Raises:
        NotReady, VersionNotLoaded: see `Models.choose`.
    """
    chosen, stream = app.models.choose(caller, side), Stream(lambda: None)
    stream.begin()
    stream.push(Chunk(text, 0, 0, "stop"))
    side = app.models.get_side(chosen)
    return GuardedStream(chosen.version, stream, lambda seconds, end: None, app.guard.make_filter(prompt), side=side)


def _extract_question(prompt: Prompt) -> str:
    """Return the text to search for; empty if the prompt can get no passages."""
    match prompt:
        case Question() if not prompt.context:
            return prompt.text
        case Chat() if prompt.messages[-1].role == "user":
            return prompt.messages[-1].content
    return ""
