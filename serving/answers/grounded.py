"""Answers from the documents: passages that are found for a question go into its prompt, and beside its answer.

If no passage is good enough, the answer is a refusal, and no model is asked. Only in a conversation that goes on, the
model answers without documents, unless they are insisted on: thanks and follow-ups are not about documents. Passages
are not the caller's words: the guard lets an answer repeat only what the caller wrote, and kept texts hold no passages.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from fastapi import Request

from llmops.data.retrieval.grounds import LEAST_ROOM, REFUSAL, Found, room_of, source_of, text_of
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

    found: Found
    sources: list[Source]  #: the passages, as they are shown beside the answer

    def given(self, request: EngineRequest) -> EngineRequest:
        """Return a request to an engine with the passages in its prompt."""
        prompt = request.prompt
        if isinstance(prompt, Question):
            return replace(request, prompt=replace(prompt, context=self.found.context))
        assert isinstance(prompt, Chat)
        last = replace(prompt.messages[-1], context=self.found.context)
        return replace(request, prompt=Chat((*prompt.messages[:-1], last)))


async def find_grounds(request: Request, app: AppParts, wanted: bool | None, asked: EngineRequest) -> Grounds | None:
    """Return the passages that an answer has to rest on; None: on none. Note the outcome in the request's event.

    Args:
        request: the HTTP request.
        app: the parts of the app.
        wanted: whether the caller wants such an answer; None: if an index is served.
        asked: the request to the engine, without passages.

    Raises:
        PromptRefused: if it is wanted for a prompt that has a context of its own, asks nothing, or leaves no room.
        NoDocuments: if it is wanted and `grounding.enabled` is off or no index is served.
        DocumentsDown, QueueFull, TimedOut: if it is wanted, see `Documents.look_up`.
    """
    question = _question(asked.prompt)
    if wanted and not question:
        raise PromptRefused("With `ground: true`, ask a question without a context, or end with the user's turn.")
    if wanted and not app.config.grounding.enabled:
        raise NoDocuments
    if not question or wanted is False or not app.config.grounding.enabled:
        return None
    turns = [m.content for m in asked.prompt.messages] if isinstance(asked.prompt, Chat) else [question]
    taken = asked.max_new_tokens + MESSAGE_TOKENS * len(turns)
    room = room_of(app.config.serving.max_context, taken, "\n".join(turns))
    if wanted and room < LEAST_ROOM:
        raise PromptTooLong(
            "The prompt leaves no room for passages of the documents: shorten it, or leave `ground` out."
        )
    event = request.state.event
    try:
        found = await app.documents.look_up(question, room)
    except (DocumentsDown, QueueFull, TimedOut):
        if wanted:
            raise
        event["llmops.retrieval.outcome"] = "down"
        return None
    if found is None:
        if wanted:
            raise NoDocuments
        return None
    hits = found.hits
    if not wanted and (room < LEAST_ROOM or not (hits or len(turns) == 1)):
        event["llmops.retrieval.outcome"] = "none"
        return None
    event["llmops.retrieval.passages"] = [hit.passage.id for hit in hits]
    event["llmops.retrieval.documents"] = list(dict.fromkeys(hit.passage.document for hit in hits))
    event["llmops.retrieval.outcome"] = "found" if hits else "refused"
    return Grounds(found, [_source(app.guard, asked.prompt, hit) for hit in hits])


def _source(guard: Guard, prompt: Prompt, hit: Hit) -> Source:
    """Return a passage as it is shown; without its words if the guard would keep them back from an answer."""
    source = Source(**source_of(hit))
    seen = guard.watch(prompt).see(Chunk(f"{source.title}\n{text_of(hit)}", 0, 0, "stop"))
    return source if seen.finish_reason == "stop" else source.model_copy(update={"title": source.source, "snippet": ""})


def refuse(app: AppParts, prompt: Prompt, caller: str, side: str) -> GuardedStream:
    """Return the refusal, in the name of the version that would have answered; it counts in no trial.

    Raises:
        NotReady, VersionNotLoaded: see `Models.choose`.
    """
    chosen, stream = app.models.choose(caller, side), Stream(lambda: None)
    stream.begin()
    stream.push(Chunk(REFUSAL, 0, 0, "stop"))
    side = app.models.side_of(chosen)
    return GuardedStream(chosen.version, stream, lambda seconds, end: None, Guard(()).watch(prompt), side=side)


def _question(prompt: Prompt) -> str:
    """Return the text to search for; empty if documents do not go with a prompt."""
    match prompt:
        case Question() if not prompt.context:
            return prompt.text
        case Chat() if prompt.messages[-1].role == "user":
            return prompt.messages[-1].content
    return ""
