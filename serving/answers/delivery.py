"""An answer on its way to its caller: it is given up when the caller leaves or time is over, and noted in the event."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, MutableMapping
from typing import Any, TypeVar

from fastapi import Request

from llmops.errors import LlmopsError
from serving.admission.dependencies import parts
from serving.admission.signing import answered_id, new_request_id
from serving.answers.noted import one_or_all
from serving.engines.base import Answer, Chunk, whole
from serving.errors import ClientLeft, TimedOut
from serving.models.stream import GuardedStream
from serving.observe.exchange import Given

T = TypeVar("T")


async def deliver(request: Request, stream: GuardedStream, timeout_s: float) -> AsyncIterator[Chunk]:
    """The chunks of an answer, as its stream gives them.

    Version, tokens, finish reason, what the guard says and the times to the engine's beginning and to the first chunk
    are in the request's event before the last one is given, and the request's id is that of an answer, with the side
    of a trial that gave it, before the first one is.

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
    given = Given(stream.prompt, stream.version)
    request.state.exchange.given.append(given)

    def give_up(error: LlmopsError) -> None:
        cause.append(error)
        stream.push(error)  # wakes a reader that waits
        stream.cancel()

    timer = loop.call_later(_left_s(request, timeout_s), give_up, _too_late(timeout_s))
    watcher = loop.create_task(_watch(request, give_up))
    try:
        async for chunk in stream:
            if last is None:
                given.first = time.perf_counter_ns()
                event.setdefault("llmops.time_to_first_token", given.first - request.state.begun)
                _begun(request, stream, given)
                _sign(request, stream.mark)
            last = chunk
            given.texts.append(chunk.text)
            given.calls = chunk.calls
            if chunk.finish_reason:
                given.ended, given.finish_reason = time.perf_counter_ns(), chunk.finish_reason
                _note(event, chunk)
                _note_guard(event, stream.broken)
                done, digests = [g for g in request.state.exchange.given if g.finish_reason], parts(request).digests
                event["llmops.answer.digest"] = one_or_all([digests.answer(g.text, g.calls) for g in done])
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
    """An answer in one piece; arguments and errors are those of `deliver`."""
    try:
        chunks = [chunk async for chunk in deliver(request, stream, timeout_s)]
    except Exception:
        request.state.id = new_request_id()  # nobody gets what was there of the answer
        raise
    return whole(chunks)


async def heard(request: Request, work: Coroutine[Any, Any, T], timeout_s: float) -> T:
    """What some work results in; it is given up when nobody listens any more or time is over.

    Args:
        request: see `deliver`.
        work: no stream.
        timeout_s: see `deliver`.

    Raises:
        ClientLeft, TimedOut: see `deliver`.
        Other errors: those of the work.
    """
    working, cause = asyncio.ensure_future(work), list[LlmopsError]()

    def give_up(error: LlmopsError) -> None:
        cause.append(error)
        working.cancel()

    loop = asyncio.get_running_loop()
    timer = loop.call_later(_left_s(request, timeout_s), give_up, _too_late(timeout_s))
    watcher = loop.create_task(_watch(request, give_up))
    try:
        return await working
    except asyncio.CancelledError:
        if cause:
            raise cause[0] from None
        raise
    finally:
        timer.cancel()
        watcher.cancel()
        working.cancel()


def _left_s(request: Request, timeout_s: float) -> float:
    return timeout_s - (time.perf_counter_ns() - int(request.state.begun)) / 1e9


def _too_late(timeout_s: float) -> TimedOut:
    return TimedOut(f"The answer was not complete after {timeout_s:g} s.")


def _sign(request: Request, mark: str) -> None:
    """Give the request the id of an answer, which carries the side it comes from, or none if there is another, too.

    A stream keeps the id that its headers tell, whoever gives the rest of it.
    """
    state = request.state
    if getattr(state, "told", False):
        return
    state.marks = {mark, *getattr(state, "marks", ())}
    mark = mark if len(state.marks) == 1 else ""
    state.id = answered_id(parts(request).session_secret, state.id, state.allowance.key.prefix, mark)


def _begun(request: Request, stream: GuardedStream, given: Given) -> None:
    """Note who answers, and since when."""
    event, given.version, given.begun = request.state.event, stream.version, stream.begun_at
    event.update({"llmops.model.version": stream.version.name, "llmops.canary.side": stream.side})
    if given.begun:
        event.setdefault("llmops.queue_time", given.begun - request.state.begun)


def _note_guard(event: MutableMapping[str, Any], broken: list[str]) -> None:
    """Note what the guard says of an answer; one that is cut counts for all of the request's."""
    if broken:
        known = event.get("llmops.guard.rules", [])
        event["llmops.guard.rules"] = [*known, *(rule for rule in broken if rule not in known)]
        event["llmops.guard.verdict"] = "cut"
    else:
        event.setdefault("llmops.guard.verdict", "passed")


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
