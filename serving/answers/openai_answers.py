"""Answers in the form of OpenAI's API: whole, or as the chunks of a stream."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fastapi import Request, Response

from serving.admission.dependencies import AppParts, reserve
from serving.answers.delivery import deliver, deliver_whole
from serving.answers.grounded import Grounds, note_sources, refusal
from serving.answers.openai_logprobs import chat_logprobs, completion_logprobs
from serving.answers.openai_schemas import OpenAIRequest
from serving.engines.base import Answer, Chunk, EngineRequest, TokenLogprob, ToolCall
from serving.errors import PromptRefused
from serving.http.server_sent_events import sse, streamed
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
) -> Response:
    """Have all answers made that one HTTP request asks for; gives its response, whole or as a stream.

    Args:
        request: the HTTP request.
        app: the parts of the app.
        body: of the request.
        requests: to the engine, one for each answer; all of them go to the caller's version, and what a canary fails
            at goes on to the champion.
        caller: the prefix of the caller's key.
        side: the side that is asked for, if any.
        chat: whether the answers are those of a chat, else of a completion.
        grounds: what they are to rest on, which the requests have, too; if there is nothing, no engine is asked. None:
            they are not grounded.

    Raises:
        PromptRefused: if there are options of a stream for none.
        Other errors: those of `Models.generate` and of `deliver`.
    """
    name, timeout_s = app.config.release.name, app.config.serving.timeout_s
    if body.stream_options and not body.stream:
        raise PromptRefused("stream_options are only taken with stream: true.")
    event = request.state.event
    if asked := grounds is None or bool(grounds.hits):
        await reserve(request, requests)
    streams: list[GuardedStream] = []
    answers: list[Answer] = []
    try:
        batch = request.state.id if len(requests) > 1 else ""
        for engine_request in requests:
            wanted = replace(engine_request, batch=batch)
            if asked:
                streams.append(app.models.generate(wanted, caller=caller, side=side)[1])
            else:
                streams.append(refusal(app, wanted.prompt, caller, side))
        event["llmops.model.version"] = streams[-1].version.name
        reply = OpenAIReply(request, name, streams[0], chat, body.n or 1, len(streams), requests[0].logprobs, grounds)
        if body.stream:
            options = body.stream_options
            reply.with_usage = bool(options and options.include_usage)
            reply.usage_everywhere = reply.with_usage and bool(options and options.continuous_usage_stats)
            return await streamed(request, _in_turn(request, streams, timeout_s), reply.render, len(streams))
        for stream in streams:
            answers.append(await deliver_whole(request, stream, timeout_s))
    except BaseException:
        for stream in streams:
            stream.cancel()
        raise
    event["llmops.model.version"] = streams[0].version.name
    return Response(await asyncio.to_thread(reply.whole, answers), media_type="application/json")


async def _in_turn(request: Request, streams: Sequence[GuardedStream], timeout_s: float) -> AsyncIterator[Chunk]:
    """The chunks of all answers, which are made at the same time, one answer after the other; see `deliver`."""
    try:
        for stream in streams:
            async for chunk in deliver(request, stream, timeout_s):
                yield chunk
                await asyncio.sleep(0)  # those of the next answers may all be there, and others are to have their turn
    finally:
        for stream in streams:
            stream.cancel()


@dataclass(slots=True)
class OpenAIReply:
    """Writes the reply to one request in OpenAI's form."""

    request: Request
    name: str  #: of the model
    stream: GuardedStream  #: the first answer's, which knows the version
    chat: bool
    n: int  #: answers to each prompt
    answers: int  #: in all
    logprobs: int | None  #: see `EngineRequest`
    grounds: Grounds | None = None  #: what the answers rest on
    with_usage: bool = False  #: whether a stream ends with its usage
    usage_everywhere: bool = False  #: whether each event has it
    created: int = field(default_factory=lambda: int(time.time()))
    _begun: bool = False  # the answer that is streamed now
    _told: int = 0  # characters of its tokens
    _ended: list[Chunk] = field(default_factory=list)  # the last chunks of those before

    def whole(self, answers: list[Answer]) -> bytes:
        """The reply in one piece, a `Completion` as JSON; answer by answer, so that other threads have their turn
        between two."""
        choices = ",".join(_json(self._choice(n, answer)) for n, answer in enumerate(answers))
        kind = "chat.completion" if self.chat else "text_completion"
        rest = _json({**self._head(), "object": kind, "usage": _usage(answers, self.n), **self._sources(answers)})
        return f'{rest[:-1]},"choices":[{choices}]}}'.encode()

    def render(self, chunk: Chunk) -> str:
        """A chunk as server-sent events; after the last one follow the usage, if it is asked for, and `[DONE]`.

        Before the first tokens that are told comes an event without any, as OpenAI sends one: its client counts twice
        what the first one tells.
        """
        index, events = len(self._ended), list[str]()
        delta: dict[str, Any] = {"content": chunk.text}
        if self.chat and not self._begun:
            role = {"role": "assistant"}
            delta = role | delta
            if self.logprobs is not None:
                empty = {"index": index, "delta": role | {"content": ""}, "logprobs": None, "finish_reason": None}
                events = [self._event([empty], self._usage_at(replace(chunk, output_tokens=0)))]
                delta = {"content": chunk.text}
        if chunk.calls:  # with the reason in an event of its own, as OpenAI has it
            delta["tool_calls"] = [{"index": n, **_call(call)} for n, call in enumerate(chunk.calls)]
            told = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
            events, delta = [self._event([told], self._usage_at(chunk))], {}
        self._begun = not chunk.finish_reason
        told = {"logprobs": self._logprobs(chunk.tokens, self._told), "finish_reason": chunk.finish_reason}
        said = {"delta": delta} if self.chat else {"text": chunk.text}
        ends = len(self._ended) + bool(chunk.finish_reason) == self.answers
        sources = self._sources([*self._ended, chunk]) if ends else {}
        events.append(self._event([{"index": index, **said, **told}], self._usage_at(chunk), sources))
        self._told += sum(len(token.text) for token in chunk.tokens)
        if chunk.finish_reason:
            self._ended.append(chunk)
            self._told = 0
        if not ends:
            return "".join(events)
        if self.with_usage:
            events.append(self._event([], _usage(self._ended, self.n), sources))
        return "".join([*events, "data: [DONE]\n\n"])

    def _usage_at(self, chunk: Chunk) -> dict[str, int] | None:
        """What is told with a chunk."""
        return _usage([*self._ended, chunk], self.n) if self.usage_everywhere else None

    def _event(
        self, choices: list[dict[str, Any]], usage: dict[str, Any] | None, sources: dict[str, Any] | None = None
    ) -> str:
        kind = "chat.completion.chunk" if self.chat else "text_completion"
        counted = {"usage": usage} if self.with_usage else {}
        return sse({**self._head(), "object": kind, "choices": choices, **counted, **(sources or {})})

    def _sources(self, answers: Sequence[Answer | Chunk]) -> dict[str, Any]:
        """What grounded answers rest on, as a field of the reply, and noted in the event."""
        if self.grounds is None:
            return {}
        given = max(answer.passages for answer in answers)
        return {"sources": [one.model_dump() for one in note_sources(self.request, self.grounds, given)]}

    def _head(self) -> dict[str, Any]:
        version = self.stream.version.name  # known for good once there is a chunk
        model = f"{self.name}:{version}"
        return {"id": self.request.state.id, "created": self.created, "model": model, "system_fingerprint": version}

    def _choice(self, n: int, answer: Answer) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": answer.text, "refusal": None}
        if answer.calls:
            message |= {"content": answer.text or None, "tool_calls": [_call(call) for call in answer.calls]}
        said = {"message": message} if self.chat else {"text": answer.text}
        logprobs = self._logprobs(answer.tokens)
        return {"index": n, **said, "logprobs": logprobs, "finish_reason": answer.finish_reason}

    def _logprobs(self, tokens: Sequence[TokenLogprob], offset: int = 0) -> dict[str, Any] | None:
        if self.logprobs is None:
            return None
        return chat_logprobs(tokens) if self.chat else completion_logprobs(tokens, self.logprobs, offset)


def _usage(answers: Sequence[Answer | Chunk], n: int = 1) -> dict[str, int]:
    """The tokens as OpenAI counts them: those of a prompt once, though it gets `n` answers, which follow each other."""
    prompt, completion = sum(a.input_tokens for a in answers[::n]), sum(a.output_tokens for a in answers)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _call(call: ToolCall) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
