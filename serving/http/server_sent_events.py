"""Answers as server-sent events: https://html.spec.whatwg.org/multipage/server-sent-events.html."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable
from typing import Any

from fastapi import Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from serving.engines.base import Chunk
from serving.http.problems import describe_problem

Render = Callable[[Chunk], str]


def format_event(data: dict[str, Any], kind: str = "") -> str:
    """Return the text of one event. `kind` is its type, by default `message`."""
    text = f"data: {json.dumps(data, ensure_ascii=False, separators=(',', ':'))}\n\n"
    return f"event: {kind}\n{text}" if kind else text


class EventStream(StreamingResponse):
    """A response with a chunk in each event, formatted by `render`. An error ends the stream with an event `error`.

    It ends after the last chunks of so many `answers`.
    """

    def __init__(
        self, request: Request, first: Chunk, rest: AsyncGenerator[Chunk], render: Render, answers: int
    ) -> None:
        super().__init__((), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})
        self._request, self._first, self._rest, self._render = request, first, rest, render
        self._answers = answers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI. `serving.answers.delivery.deliver` notices that the client has left, not this method."""

        async def send_text(text: str, ended: bool) -> None:
            self._answers -= ended
            await send({"type": "http.response.body", "body": text.encode(), "more_body": self._answers > 0})

        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        try:
            await send_text(self._render(self._first), bool(self._first.finish_reason))
            async for chunk in self._rest:
                if chunk.text or chunk.finish_reason:
                    await send_text(self._render(chunk), bool(chunk.finish_reason))
        except Exception as error:
            status, body, _ = describe_problem(self._request, error)
            self._request.state.event.update({"http.response.status_code": status, "event.outcome": "failure"})
            self._answers = 0
            await send_text(format_event(body, "error"), True)
        finally:
            await self._rest.aclose()


async def start_event_stream(
    request: Request, chunks: AsyncGenerator[Chunk], render: Render, answers: int = 1
) -> EventStream:
    """Return the response that sends these chunks. An error before the first chunk still gets its own status."""
    return EventStream(request, await anext(chunks), chunks, render, answers)
