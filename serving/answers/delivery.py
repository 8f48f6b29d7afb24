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
from serving.answers.requests import one_or_all
from serving.engines.base import Answer, Chunk
from serving.errors import ClientLeft, TimedOut
from serving.models.stream import GuardedStream
from serving.observe.exchange import Given


async def deliver(request: Request, stream: GuardedStream, timeout_s: float) -> AsyncIterator[Chunk]:
    """Yield the chunks of an answer's stream, which is cancelled where it is not taken to its end.

    Version, tokens, finish reason, the guard's verdict and the times to the engine's beginning and to the first chunk
    are in the request's event before the last chunk. The side of a trial that answers is in the request's id before the
    first. The request's body must have been read: all that is received from now on is that the caller has left.

    Raises:
        ClientLeft: if nobody listens any more.
        TimedOut: if the answer is not complete in time.
        Other errors: those of the stream.
    """
    loop = asyncio.get_running_loop()
    event, last, cause = request.state.event, None, []
    given = Given(stream.prompt, stream.version)
    request.state.exchange.append(given)

    def give_up(error: LlmopsError) -> None:
        cause.append(error)
        stream.push(error)  # wakes a reader that waits
        stream.cancel()

    left_s = timeout_s - (time.perf_counter_ns() - request.state.begun) / 1e9
    timer = loop.call_later(left_s, give_up, TimedOut(f"The answer was not complete after {timeout_s:g} s."))
    watcher = loop.create_task(_watch(request, give_up))
    try:
        async for chunk in stream:
            if last is None:
                given.first = time.perf_counter_ns()
                event.setdefault("llmops.time_to_first_token", given.first - request.state.begun)
                _begun(request, stream, given)
                _mark(request, stream.mark)
            last = chunk
            given.texts.append(chunk.text)
            if chunk.finish_reason:
                given.ended, given.finish_reason = time.perf_counter_ns(), chunk.finish_reason
                _note(event, chunk)
                _note_guard(event, stream.broken)
                digests = [parts(request).digests.text(g.text) for g in request.state.exchange if g.finish_reason]
                event["llmops.answer.digest"] = one_or_all(digests)
                yield chunk
                return  # whoever leaves now has the answer
            yield chunk
        if cause:
            raise cause[0]
    finally:
        timer.cancel()
        watcher.cancel()
        stream.cancel()
        if not given.ended:
            given.ended = time.perf_counter_ns()
            _begun(request, stream, given)
        if last and not last.finish_reason:
            _note(event, last)


async def deliver_whole(request: Request, stream: GuardedStream, timeout_s: float) -> Answer:
    """Return an answer in one piece; arguments and errors are those of `deliver`."""
    texts: list[str] = []
    async for chunk in deliver(request, stream, timeout_s):
        texts.append(chunk.text)
    return Answer("".join(texts), chunk.input_tokens, chunk.output_tokens, chunk.finish_reason or "stop")


def _mark(request: Request, mark: str) -> None:
    """Mark the request's id with the side that has answered; if its answers come from both, with none."""
    state = request.state
    state.marks = {mark, *getattr(state, "marks", ())}
    state.id = marked_id(parts(request).session_secret, state.id, mark if len(state.marks) == 1 else "")


def _begun(request: Request, stream: GuardedStream, given: Given) -> None:
    event, given.version, given.begun = request.state.event, stream.version, stream.begun_at
    event.update({"llmops.model.version": stream.version.name, "llmops.canary.side": stream.side})
    if given.begun:
        event.setdefault("llmops.queue_time", given.begun - request.state.begun)


def _note_guard(event: MutableMapping[str, Any], broken: list[str]) -> None:
    """Note the guard's verdict; an answer that is cut counts for all of the request's."""
    if broken:
        known = event.get("llmops.guard.rules", [])
        event["llmops.guard.rules"] = [*known, *(rule for rule in broken if rule not in known)]
        event["llmops.guard.verdict"] = "cut"
    else:
        event.setdefault("llmops.guard.verdict", "passed")


def _note(event: MutableMapping[str, Any], chunk: Chunk) -> None:
    for name, count in (("input_tokens", chunk.input_tokens), ("output_tokens", chunk.output_tokens)):
        event[f"gen_ai.usage.{name}"] = event.get(f"gen_ai.usage.{name}", 0) + count
    if chunk.finish_reason:
        event.setdefault("gen_ai.response.finish_reasons", []).append(chunk.finish_reason)


async def _watch(request: Request, give_up: Callable[[LlmopsError], None]) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    give_up(ClientLeft())
