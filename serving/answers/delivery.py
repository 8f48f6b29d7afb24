"""An answer on its way to its caller: it is given up when the caller leaves or time is over, and noted in the event."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, MutableMapping
from typing import Any

from fastapi import Request

from llmops.errors import LlmopsError
from serving.admission.dependencies import parts
from serving.admission.signing import marked_id
from serving.engines.base import Answer, Chunk
from serving.errors import ClientLeft, TimedOut
from serving.models.stream import GuardedStream


async def deliver(request: Request, stream: GuardedStream, timeout_s: float) -> AsyncIterator[Chunk]:
    """The chunks of an answer, as its stream gives them.

    Version, tokens, finish reason and time to the first chunk are in the request's event before the last one is given,
    and which side of a trial has answered is in the request's id before the first one is.

    Args:
        request: its body must have been read, since all that is received from now on is that the caller has left.
        stream: of the answer; it is cancelled where it is not taken to its end.
        timeout_s: how long the answer may take, in seconds from when the request came.

    Raises:
        ClientLeft: if nobody listens any more.
        TimedOut: if the answer is not complete in time.
        Other errors: those of the stream.
    """
    loop = asyncio.get_running_loop()
    event, last, cause = request.state.event, None, []

    def give_up(error: LlmopsError) -> None:
        cause.append(error)
        stream.push(error)  # wakes a reader that waits
        stream.cancel()

    left_s = timeout_s - (time.perf_counter_ns() - request.state.begun) / 1e9
    timer = loop.call_later(left_s, give_up, TimedOut(f"The answer was not complete after {timeout_s:g} s."))
    watcher = loop.create_task(_watch(request, give_up))
    try:
        async for chunk in stream:
            event.setdefault("llmops.time_to_first_token", time.perf_counter_ns() - request.state.begun)
            event["llmops.model.version"] = stream.version.name
            if last is None:
                _mark(request, stream.mark)
            last = chunk
            if chunk.finish_reason:
                _note(event, chunk)
                if stream.broken:
                    event["llmops.guard.rules"] = stream.broken
                yield chunk
                return  # whoever leaves now has the answer
            yield chunk
        if cause:
            raise cause[0]
    finally:
        timer.cancel()
        watcher.cancel()
        stream.cancel()
        if last and not last.finish_reason:
            _note(event, last)


async def deliver_whole(request: Request, stream: GuardedStream, timeout_s: float) -> Answer:
    """An answer in one piece; arguments and errors are those of `deliver`."""
    texts: list[str] = []
    async for chunk in deliver(request, stream, timeout_s):
        texts.append(chunk.text)
    return Answer("".join(texts), chunk.input_tokens, chunk.output_tokens, chunk.finish_reason or "stop")


def _mark(request: Request, mark: str) -> None:
    """Let the request's id carry which side has answered; where its answers come from both, it carries none."""
    state = request.state
    state.marks = {mark, *getattr(state, "marks", ())}
    state.id = marked_id(parts(request).session_secret, state.id, mark if len(state.marks) == 1 else "")


def _note(event: MutableMapping[str, Any], chunk: Chunk) -> None:
    """Add an answer's tokens and finish reason to the event; the tokens of a request's answers add up."""
    for name, count in (("input_tokens", chunk.input_tokens), ("output_tokens", chunk.output_tokens)):
        event[f"gen_ai.usage.{name}"] = event.get(f"gen_ai.usage.{name}", 0) + count
    if chunk.finish_reason:
        event.setdefault("gen_ai.response.finish_reasons", []).append(chunk.finish_reason)


async def _watch(request: Request, give_up: Callable[[LlmopsError], None]) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    give_up(ClientLeft())
