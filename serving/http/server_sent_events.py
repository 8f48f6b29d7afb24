"""Answers as server-sent events: https://html.spec.whatwg.org/multipage/server-sent-events.html."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

from fastapi import Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from serving.engines.base import Chunk
from serving.http.problems import describe_problem

Render = Callable[[Chunk], str]


def sse(data: dict[str, Any], kind: str = "") -> str:
    """One event; `kind` is its type, by default `message`."""
    text = f"data: {json.dumps(data, ensure_ascii=False, separators=(',', ':'))}\n\n"
    return f"event: {kind}\n{text}" if kind else text


class EventStream(StreamingResponse):
    """Sends each chunk as `render` writes it. An error ends the stream with an event `error`."""

    def __init__(
        self, request: Request, first: Chunk, rest: AsyncIterator[Chunk], render: Render, answers: int
    ) -> None:
        super().__init__((), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})
        self._request, self._first, self._rest, self._render, self._left = request, first, rest, render, answers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI. It does not listen for the client's leaving: `serving.answers.delivery.deliver` does."""

        async def put(text: str, more: bool) -> None:
            await send({"type": "http.response.body", "body": text.encode(), "more_body": more})

        async def put_chunk(chunk: Chunk) -> None:
            self._left -= chunk.finish_reason is not None
            await put(self._render(chunk), self._left > 0)

        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        try:
            await put_chunk(self._first)
            async for chunk in self._rest:
                if chunk.text or chunk.finish_reason:
                    await put_chunk(chunk)
        except Exception as error:
            status, body, _ = describe_problem(self._request, error)
            self._request.state.event.update({"http.response.status_code": status, "event.outcome": "failure"})
            await put(sse(body, "error"), False)
        finally:
            await self._rest.aclose()  # type: ignore[attr-defined]  # it is a generator


async def streamed(request: Request, chunks: AsyncIterator[Chunk], render: Render, answers: int = 1) -> EventStream:
    """The response that sends these chunks; what goes wrong before the first one still gets its own status.

    Args:
        request: the HTTP request.
        chunks: of all answers, one after the other.
        render: writes them.
        answers: how many there are.
    """
    return EventStream(request, await anext(chunks), chunks, render, answers)
