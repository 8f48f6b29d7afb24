"""A JSON answer of many megabytes, made while it is sent: what nobody reads is not made either."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from fastapi import Request, Response
from starlette.types import Receive, Scope, Send

from serving.errors import ClientLeft
from serving.http.problems import describe_problem


class Pieces(Response):
    """Sends each piece when the one before it was taken."""

    media_type = "application/json"

    def __init__(self, request: Request, pieces: Iterator[bytes]) -> None:
        super().__init__()
        del self.headers["content-length"]
        self._request, self._pieces = request, pieces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        try:
            while piece := await asyncio.to_thread(next, self._pieces, b""):  # others have their turn meanwhile
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        except ClientLeft as error:
            status, _, _ = describe_problem(self._request, error)
            self._request.state.event.update({"http.response.status_code": status, "event.outcome": "failure"})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
