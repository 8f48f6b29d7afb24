"""Answers from the documents: the passages found for a question go into its prompt, and are listed beside its answer.

If no passage is good enough, the answer is a refusal, in every turn of a conversation, and no model is used. Neither is
it where answers are quotes (`grounding.answer`). Where the model answers without documents all the same, the response
says so (`describe_grounds`). Passages are not the caller's words: the guard lets an answer repeat only text that the
caller wrote, and kept texts hold no passages.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

from fastapi import Request

from llmops.data.retrieval.grounding import (
    MIN_ROOM,
    REFUSAL,
    TIGHT_ROOM,
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
from serving.errors import DocumentsDown, NoDocuments, PromptRefused, QueueFull, TimedOut
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

    Without `wanted`, an answer rests on no documents only if the prompt has its own context or asks nothing, if no
    index is served, or if it cannot be searched. If no passage is good enough, the grounds are those of a refusal.

    Args:
        request: the HTTP request.
        app: the parts of the app.
        wanted: the request's `ground`; None: ground the answer if an index is served.
        plain: the request to the engine, without passages.
        caller: the key's `answered_to`.
        side: the side that the caller asks for, see `Models.choose`.

    Raises:
        NotReady, VersionNotLoaded: see `Models.choose`.
        PromptRefused: if `wanted` is true for a prompt that has its own context or asks nothing.
        NoDocuments: if `wanted` is true and `grounding.enabled` is off or no index is served.
        DocumentsDown, QueueFull, TimedOut: if `wanted` is true, see `Documents.look_up`.
    """
    question, event, config = _extract_question(plain.prompt), request.state.event, app.config.grounding
    note_no_documents(request, app)
    if wanted and not question:
        raise PromptRefused("With `ground: true`, ask a question without a context, or end with the user's turn.")
    if wanted and not config.enabled:
        raise NoDocuments
    if not config.enabled or not question or wanted is False:
        return None
    mode = config.with_answer(app.models.choose(caller, side).version.answer).answer
    room = config.room if mode == "quote" else _compute_room(app, plain)  # a quote is in no prompt
    try:
        found = await app.documents.look_up(question, room, mode)
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
    event["llmops.retrieval.passages"] = [hit.passage.id for hit in hits]
    event["llmops.retrieval.documents"] = list(dict.fromkeys(hit.passage.document for hit in hits))
    event["llmops.retrieval.outcome"] = "found" if hits else "refused"
    return Grounds(found, [_make_source(app.guard, plain.prompt, hit) for hit in hits])


def note_no_documents(request: Request, app: AppParts) -> None:
    """Note in the request's event that its answer rests on no documents, if `grounding.enabled` is on."""
    if app.config.grounding.enabled:
        request.state.event["llmops.retrieval.outcome"] = "none"


def describe_grounds(app: AppParts, grounds: Grounds | None) -> dict[str, Any]:
    """Return the fields of a response that say if it is from the documents; empty if `grounding.enabled` is off."""
    if not app.config.grounding.enabled:
        return {}
    return {"sources": grounds.sources if grounds else [], "from_documents": grounds is not None}


def _compute_room(app: AppParts, plain: EngineRequest) -> int:
    """Return the bytes for passages beside a prompt. The engine refuses a prompt that does not fit with them."""
    turns = [_extract_question(plain.prompt)]
    if isinstance(plain.prompt, Chat):
        turns = [message.content for message in plain.prompt.messages]
    taken = plain.max_new_tokens + MESSAGE_TOKENS * len(turns)
    room = compute_room(app.config.serving.max_context, taken, app.models.system_prompt + "\n".join(turns))
    return room if room >= MIN_ROOM else TIGHT_ROOM


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
