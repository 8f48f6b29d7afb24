"""Answers in the form of OpenAI's API: complete, or as the chunks of a stream."""

from __future__ import annotations

import secrets
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from fastapi import Request

from serving.admission.dependencies import AppParts, reserve
from serving.answers.delivery import deliver, deliver_all, deliver_whole, unite
from serving.answers.grounded import Grounds, describe_grounds, stream_ready_answer
from serving.answers.openai_bodies import (
    AssistantMessage,
    ChatChoice,
    Completion,
    CompletionChoice,
    FunctionCall,
    Logprobs,
    OpenAIUsage,
    TokenLogprob,
    ToolCall,
)
from serving.answers.openai_schemas import OpenAIRequest
from serving.answers.openai_tools import CallReader
from serving.engines.base import Answer, Chunk, EngineRequest, ScoredText
from serving.errors import PromptRefused
from serving.http.server_sent_events import EventStream, format_event, start_event_stream
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
    """Return the response to one HTTP request, with an answer to each engine request, complete or as a stream.

    `caller` is the key's `answered_to`. All answers come from one version, see `Models.choose`; the champion
    gives them all if a canary fails before each of its answers has begun. The answers rest on the passages of
    `grounds`, if there are any.

    Raises:
        PromptRefused: if there are `stream_options` without a stream.
        Other errors: those of `Models.generate` and of `deliver`.
    """
    name, timeout_s = app.config.release.name, app.config.serving.timeout_s
    if body.stream_options and not body.stream:
        raise PromptRefused("stream_options are only accepted with stream: true.")
    event = request.state.event
    ready = grounds.ready_answer if grounds else ""
    grounded = [grounds.add_passages(plain) if grounds else plain for plain in requests]
    if not ready:
        await reserve(request, grounded)
    streams: list[GuardedStream] = []
    answers: list[Answer] = []
    try:
        for engine_request, plain in zip(grounded, requests, strict=True):
            if ready:
                streams.append(stream_ready_answer(app, ready, plain.prompt, caller, side))
            else:
                stream = app.models.generate(engine_request, caller=caller, side=side, caller_prompt=plain.prompt)
                streams.append(stream)
        streams = await unite(request, streams, timeout_s)
        event["llmops.model.version"] = streams[0].version.name
        reply = OpenAIReply(request, name, streams, chat, body.n or 1, describe_grounds(app, grounds))
        reply.calls = bool(body.functions)
        reply.with_logprobs = requests[0].logprobs
        if body.stream:
            reply.with_usage = bool(body.stream_options and body.stream_options.include_usage)
            several = len(streams) > 1  # the other streams would cost each piece of a single one time
            chunks = deliver_all(request, streams, timeout_s) if several else deliver(request, streams[0], timeout_s)
            return await start_event_stream(request, chunks, reply.render, len(streams))
        for stream in streams:
            answers.append(await deliver_whole(request, stream, timeout_s))
    except BaseException:
        for stream in streams:
            stream.cancel()
        raise
    event["llmops.model.version"] = streams[0].version.name
    return reply.make_completion(answers)


@dataclass(slots=True)
class OpenAIReply:
    """The reply to one request in OpenAI's form."""

    request: Request
    name: str  #: the model's name
    streams: list[GuardedStream]  #: the streams of the answers, for the version
    chat: bool
    n: int = 1  #: answers to each prompt
    described: dict[str, Any] = field(default_factory=dict)  #: see `describe_grounds`
    calls: bool = False  #: True if the answers may call functions
    with_logprobs: bool = False
    with_usage: bool = False  #: True if a stream ends with its usage
    created: int = field(default_factory=lambda: int(time.time()))
    _started: bool = False  #: True if the present answer of a stream has begun
    _reader: CallReader = field(default_factory=CallReader)  #: of the present answer
    _last: list[Chunk] = field(default_factory=list)  #: the last chunks of a stream's complete answers
    _held: deque[ScoredText] = field(default_factory=deque)  #: tokens whose text the guard holds back
    _room: int = 0  #: characters that have left, and belong to tokens that have not

    def make_completion(self, answers: list[Answer]) -> Completion:
        """Return the complete reply."""
        choices = [self._make_choice(n, answer) for n, answer in enumerate(answers)]
        usage = _count_usage(answers, self.n)
        kind = "chat.completion" if self.chat else "text_completion"
        return Completion(object=kind, choices=choices, usage=usage, **self.described, **self._list_common_fields())

    def render(self, chunk: Chunk) -> str:
        """Return a chunk as server-sent events.

        The last chunk of an answer has the sources. After all answers come the usage, if requested, and `[DONE]`.
        """
        delta = {"delta": self._make_delta(chunk)} if self.chat else {"text": chunk.text}
        self._started = not chunk.finish_reason
        logprobs = self._release_logprobs(chunk)
        choice = {"logprobs": logprobs and logprobs.model_dump(), "finish_reason": self._get_reason(chunk)}
        choices = [{"index": len(self._last), **delta, **choice}]
        events = [self._format_chunk(choices, None, self._dump_grounds() if chunk.finish_reason else {})]
        if chunk.finish_reason:
            self._reader = CallReader()
            self._last.append(chunk)
            if len(self._last) == len(self.streams):
                if self.with_usage:
                    events.append(self._format_chunk([], _count_usage(self._last, self.n).model_dump(), {}))
                events.append("data: [DONE]\n\n")
        return "".join(events)

    def _format_chunk(
        self, choices: list[dict[str, Any]], usage: dict[str, Any] | None, described: dict[str, Any]
    ) -> str:
        kind = "chat.completion.chunk" if self.chat else "text_completion"
        more: dict[str, Any] = {"usage": usage} if self.with_usage else {}
        return format_event({**self._list_common_fields(), "object": kind, "choices": choices, **more, **described})

    def _dump_grounds(self) -> dict[str, Any]:
        described = dict(self.described)
        if "sources" in described:
            described["sources"] = [source.model_dump() for source in described["sources"]]
        return described

    def _list_common_fields(self) -> dict[str, Any]:
        version = self.streams[0].version.name  # final after the first chunk
        model = f"{self.name}:{version}"
        return {"id": self.request.state.id, "created": self.created, "model": model, "system_fingerprint": version}

    def _make_choice(self, n: int, answer: Answer) -> ChatChoice | CompletionChoice:
        if self.chat:
            self._reader = CallReader()
            message = self._make_message(answer)
            logprobs, reason = self._release_logprobs(answer), self._get_reason(answer)
            return ChatChoice(index=n, message=message, logprobs=logprobs, finish_reason=reason)
        return CompletionChoice(index=n, text=answer.text, finish_reason=answer.finish_reason)

    def _make_message(self, answer: Answer) -> AssistantMessage:
        if not self.calls:
            return AssistantMessage(content=answer.text)
        text, name, arguments = self._reader.read(answer.text, True)
        if not name:
            return AssistantMessage(content=text)
        call = ToolCall(id=_make_call_id(), function=FunctionCall(name=name, arguments=arguments))
        return AssistantMessage(content=text or None, tool_calls=[call])

    def _make_delta(self, chunk: Chunk) -> dict[str, Any]:
        delta: dict[str, Any] = {} if self._started else {"role": "assistant"}
        if not self.calls:
            return {**delta, "content": chunk.text}
        text, name, arguments = self._reader.read(chunk.text, chunk.finish_reason is not None)
        if text:
            delta["content"] = text
        if name:
            function = {"name": name, "arguments": arguments}
            delta["tool_calls"] = [{"index": 0, "id": _make_call_id(), "type": "function", "function": function}]
        elif arguments:
            delta["tool_calls"] = [{"index": 0, "function": {"arguments": arguments}}]
        return delta

    def _get_reason(self, answer: Answer | Chunk) -> Any:
        return "tool_calls" if self._reader.complete and answer.finish_reason == "stop" else answer.finish_reason

    def _release_logprobs(self, answer: Answer | Chunk) -> Logprobs | None:
        """Return the tokens whose text has left. The guard may hold text back, or cut it; then so are its tokens."""
        if not self.with_logprobs:
            return None
        self._held.extend(answer.logprobs)
        self._room += len(answer.text)
        content: list[TokenLogprob] = []
        while self._held and len(self._held[0].text) <= self._room:
            text, logprob = self._held.popleft()
            self._room -= len(text)
            content.append(TokenLogprob(token=text, logprob=logprob, bytes=list(text.encode())))
        if answer.finish_reason:
            self._held.clear()
            self._room = 0
        return Logprobs(content=content)


def _make_call_id() -> str:
    return f"call_{secrets.token_hex(12)}"


def _count_usage(answers: Sequence[Answer | Chunk], n: int = 1) -> OpenAIUsage:
    """Return the tokens, counted like OpenAI: a prompt counts once for its `n` answers, which follow each other."""
    prompt, completion = sum(a.input_tokens for a in answers[::n]), sum(a.output_tokens for a in answers)
    return OpenAIUsage(prompt_tokens=prompt, completion_tokens=completion, total_tokens=prompt + completion)
