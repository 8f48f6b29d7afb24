"""The delivery of an answer to its caller, with its facts in the request's event.

The answer is given up when the caller leaves or time runs out.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Callable, MutableMapping, Sequence
from contextlib import aclosing
from typing import Any

from fastapi import Request

from llmops.frame.errors import LlmopsError
from serving.admission.dependencies import get_parts
from serving.admission.signing import NO_DIGEST, AnswerId, sign_answer
from serving.answers.requests import unwrap_single
from serving.engines.base import Answer, Chunk, ScoredText
from serving.errors import ClientLeft, TimedOut
from serving.models.stream import GuardedStream, unite_streams
from serving.observe.exchange import ServedAnswer, get_question


async def deliver(
    request: Request, stream: GuardedStream, timeout_s: float, whole: bool = False
) -> AsyncGenerator[Chunk]:
    """Yield the chunks of an answer's stream. Cancel the stream if it is not read to its end.

    Before the last chunk, the request's event has the version, tokens, finish reason, the guard's verdict, and the
    times in the queue and to the first chunk. The request's id is signed for feedback before the first chunk; if the
    caller gets the answer `whole`, before the last chunk, with the digest of the answer.

    The request's body must have been read, so that the only further message is the disconnection.

    Raises:
        ClientLeft: if the caller has left.
        TimedOut: if the answer is not complete in time.
        Other errors: those of the stream.
    """
    loop = asyncio.get_running_loop()
    event, last, causes = request.state.event, None, []
    answer = ServedAnswer(stream.prompt, stream.version)
    request.state.exchange.append(answer)

    def give_up(error: LlmopsError) -> None:
        causes.append(error)
        stream.push(error)  # wakes a waiting reader
        stream.cancel()

    timer = loop.call_later(_compute_left_s(request, timeout_s), give_up, _make_timed_out(timeout_s))
    watcher = loop.create_task(_watch_connection(request, give_up))
    try:
        async for chunk in stream:
            if last is None:
                answer.first_chunk_ns = time.perf_counter_ns()
                event.setdefault("llmops.time_to_first_token", answer.first_chunk_ns - request.state.start_ns)
                _record_start(request, stream, answer)
                if not whole:
                    _sign_id(request, stream)
            last = chunk
            answer.texts.append(chunk.text)
            if stream.version.classifies and chunk.logprobs:
                answer.confidence = math.exp(chunk.logprobs[0].logprob)
            if chunk.finish_reason:
                answer.ended_ns, answer.finish_reason = time.perf_counter_ns(), chunk.finish_reason
                _record_usage(event, chunk)
                _record_guard(event, stream.broken_rules)
                complete = [one.text for one in request.state.exchange if one.finish_reason]
                event["llmops.answer.digest"] = unwrap_single(
                    [get_parts(request).digests.digest_text(text) for text in complete]
                )
                if whole:
                    _sign_id(request, stream, answer.text)
                yield chunk
                return  # a caller who leaves now has the answer
            yield chunk
        if causes:
            raise causes[0]
    finally:
        timer.cancel()
        watcher.cancel()
        stream.cancel()
        if not answer.ended_ns:
            answer.ended_ns = time.perf_counter_ns()
            _record_start(request, stream, answer)
        if last and not last.finish_reason:
            _record_usage(event, last)


async def unite(request: Request, streams: Sequence[GuardedStream], timeout_s: float) -> list[GuardedStream]:
    """Return the streams of a request's answers, all of one version; see `unite_streams`.

    Raises:
        TimedOut: if not all of a canary's answers begin in time.
    """
    if len(streams) == 1:
        return list(streams)  # it falls back when it is read
    try:
        async with asyncio.timeout(_compute_left_s(request, timeout_s)):
            return await unite_streams(streams)
    except TimeoutError:
        error = _make_timed_out(timeout_s)
        for stream in streams:
            stream.push(error)
        raise error from None


async def deliver_all(request: Request, streams: Sequence[GuardedStream], timeout_s: float) -> AsyncGenerator[Chunk]:
    """Yield the chunks of several answers, which are computed together, one answer after the other; see `deliver`.

    The request's id has no mark, because a champion that takes over in the stream would change it.
    """
    request.state.signed = [("", get_question(stream.prompt), "") for stream in streams]
    try:
        for stream in streams:
            async with aclosing(deliver(request, stream, timeout_s)) as chunks:
                async for chunk in chunks:
                    yield chunk
    finally:
        for stream in streams:
            stream.cancel()


async def deliver_whole(request: Request, stream: GuardedStream, timeout_s: float) -> Answer:
    """Return the complete answer. Arguments and errors are those of `deliver`."""
    texts: list[str] = []
    logprobs: list[ScoredText] = []
    async for chunk in deliver(request, stream, timeout_s, whole=True):
        texts.append(chunk.text)
        logprobs += chunk.logprobs
    reason = chunk.finish_reason or "stop"
    return Answer("".join(texts), chunk.input_tokens, chunk.output_tokens, reason, tuple(logprobs))


def _compute_left_s(request: Request, timeout_s: float) -> float:
    """Return the seconds that a request still has."""
    return timeout_s - (time.perf_counter_ns() - float(request.state.start_ns)) / 1e9


def _make_timed_out(timeout_s: float) -> TimedOut:
    return TimedOut(f"The answer was not complete after {timeout_s:g} s.")


def _sign_id(request: Request, stream: GuardedStream, answer: str = "") -> None:
    """Sign the request's id for feedback by its caller.

    If its answers differ in the side of a trial, in their question or in their text, the id has no part for it. The
    answer is unknown while it is streamed.
    """
    state, app = request.state, get_parts(request)
    state.signed = [*getattr(state, "signed", ()), (stream.mark, get_question(stream.prompt), answer)]
    mark, question, text = (one.pop() if len(one) == 1 else "" for one in map(set, zip(*state.signed, strict=True)))
    question, text = (app.digests.digest_text(one.strip()) if one else NO_DIGEST for one in (question, text))
    owner = state.allowance.key.answered_to
    state.id = sign_answer(app.session_secret, state.id, owner, AnswerId(mark, question, text))


def _record_start(request: Request, stream: GuardedStream, answer: ServedAnswer) -> None:
    event, answer.version, answer.started_ns = request.state.event, stream.version, stream.begun_at
    event.update({"llmops.model.version": stream.version.name, "llmops.canary.side": stream.side})
    if answer.started_ns:
        event.setdefault("llmops.queue_time", answer.started_ns - request.state.start_ns)


def _record_guard(event: MutableMapping[str, Any], broken: list[str]) -> None:
    """Note the guard's verdict. One cut answer makes the verdict of the whole request."""
    if broken:
        known = event.get("llmops.guard.rules", [])
        event["llmops.guard.rules"] = [*known, *(rule for rule in broken if rule not in known)]
        event["llmops.guard.verdict"] = "cut"
    else:
        event.setdefault("llmops.guard.verdict", "passed")


def _record_usage(event: MutableMapping[str, Any], chunk: Chunk) -> None:
    for name, count in (("input_tokens", chunk.input_tokens), ("output_tokens", chunk.output_tokens)):
        event[f"gen_ai.usage.{name}"] = event.get(f"gen_ai.usage.{name}", 0) + count
    if chunk.finish_reason:
        event.setdefault("gen_ai.response.finish_reasons", []).append(chunk.finish_reason)


async def _watch_connection(request: Request, give_up: Callable[[LlmopsError], None]) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    give_up(ClientLeft())
