"""Answers in the form of OpenAI's API: whole, or as the chunks of a stream."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request

from serving.admission.dependencies import AppParts, reserve
from serving.answers.delivery import deliver, deliver_whole
from serving.answers.grounded import Grounds, refuse
from serving.answers.openai_schemas import (
    AssistantMessage,
    ChatChoice,
    Completion,
    CompletionChoice,
    OpenAIRequest,
    OpenAIUsage,
)
from serving.engines.base import Answer, Chunk, EngineRequest
from serving.errors import PromptRefused
from serving.http.server_sent_events import EventStream, sse, streamed
from serving.models.stream import GuardedStream


async def respond(
    request: Request,
    app: AppParts,
    body: OpenAIRequest,
    requests: list[EngineRequest],
    *,
    caller: str,
    side: str,
    chat: bool,
    grounds: Grounds | None = None,
) -> Completion | EventStream:
    """Ask for all answers to one HTTP request, an engine request each, and return its response, whole or as a stream.

    All go to the version of the caller, the prefix of a key, or of the side that is asked for; the champion answers
    where a canary fails. The answers rest on the passages of `grounds`, if it is given.

    Raises:
        PromptRefused: if several answers are to be streamed.
        Other errors: those of `Models.generate` and of `deliver`.
    """
    name, timeout_s = app.config.release.name, app.config.serving.timeout_s
    if body.stream and len(requests) > 1:
        raise PromptRefused("Only one answer can be streamed at a time: send one prompt, and no n.")
    if body.stream_options and not body.stream:
        raise PromptRefused("stream_options are only taken with stream: true.")
    event = request.state.event
    refused = bool(grounds and not grounds.found.hits)
    given = [grounds.given(one) if grounds else one for one in requests]
    if not refused:
        await reserve(request, given)
    streams: list[GuardedStream] = []
    answers: list[Answer] = []
    try:
        for one, asked in zip(given, requests, strict=True):
            if refused:
                streams.append(refuse(app, asked.prompt, caller, side))
            else:
                streams.append(app.models.generate(one, caller=caller, side=side, asked=asked.prompt))
        event["llmops.model.version"] = streams[0].version.name
        reply = OpenAIReply(request, name, streams[0], chat, body.n or 1, grounds)
        if body.stream:
            reply.with_usage = bool(body.stream_options and body.stream_options.include_usage)
            return await streamed(request, deliver(request, streams[0], timeout_s), reply.render)
        for stream in streams:
            answers.append(await deliver_whole(request, stream, timeout_s))
    except BaseException:
        for stream in streams:
            stream.cancel()
        raise
    event["llmops.model.version"] = streams[0].version.name
    return reply.whole(answers)


@dataclass(slots=True)
class OpenAIReply:
    """Writes the reply to one request in OpenAI's form."""

    request: Request
    name: str  #: of the model
    stream: GuardedStream  #: the first answer's, which knows the version
    chat: bool
    n: int = 1  #: answers to each prompt
    grounds: Grounds | None = None  #: that they rest on
    with_usage: bool = False  #: whether a stream ends with its usage
    created: int = field(default_factory=lambda: int(time.time()))
    _begun: bool = False

    def whole(self, answers: list[Answer]) -> Completion:
        """Return the reply in one piece."""
        choices = [self._choice(n, answer) for n, answer in enumerate(answers)]
        usage = _usage(answers, self.n)
        kind = "chat.completion" if self.chat else "text_completion"
        sources = self.grounds.sources if self.grounds else None
        return Completion(object=kind, choices=choices, usage=usage, sources=sources, **self._head())

    def render(self, chunk: Chunk) -> str:
        """Write a chunk as server-sent events.

        The last one has the sources. After it come the usage, if it is asked for, and `[DONE]`.
        """
        delta: dict[str, Any] = {"delta": {"content": chunk.text}} if self.chat else {"text": chunk.text}
        if self.chat and not self._begun:
            delta["delta"] = {"role": "assistant", "content": chunk.text}
        self._begun = True
        choices = [{"index": 0, **delta, "logprobs": None, "finish_reason": chunk.finish_reason}]
        grounds = self.grounds if chunk.finish_reason else None
        events = [self._event(choices, None, [one.model_dump() for one in grounds.sources] if grounds else None)]
        if chunk.finish_reason and self.with_usage:
            events.append(self._event([], _usage([chunk]).model_dump()))
        return "".join([*events, *(["data: [DONE]\n\n"] if chunk.finish_reason else [])])

    def _event(
        self, choices: list[dict[str, Any]], usage: dict[str, Any] | None, sources: list[dict[str, Any]] | None = None
    ) -> str:
        kind = "chat.completion.chunk" if self.chat else "text_completion"
        more: dict[str, Any] = {"usage": usage} if self.with_usage else {}
        more |= {"sources": sources} if sources is not None else {}
        return sse({**self._head(), "object": kind, "choices": choices, **more})

    def _head(self) -> dict[str, Any]:
        version = self.stream.version.name  # known for good once there is a chunk
        model = f"{self.name}:{version}"
        return {"id": self.request.state.id, "created": self.created, "model": model, "system_fingerprint": version}

    def _choice(self, n: int, answer: Answer) -> ChatChoice | CompletionChoice:
        if self.chat:
            return ChatChoice(
                index=n, message=AssistantMessage(content=answer.text), finish_reason=answer.finish_reason
            )
        return CompletionChoice(index=n, text=answer.text, finish_reason=answer.finish_reason)


def _usage(answers: Sequence[Answer | Chunk], n: int = 1) -> OpenAIUsage:
    """Count tokens as OpenAI does: those of a prompt once, though it gets `n` answers, which follow each other."""
    prompt, completion = sum(a.input_tokens for a in answers[::n]), sum(a.output_tokens for a in answers)
    return OpenAIUsage(prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion)
