"""Around every request: an id, a limit on its body, security headers, and for `/generate` an event."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from pathlib import Path

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llmops.monitoring import events

log = logging.getLogger(__name__)

RECORDED = {"/generate"}  #: paths whose requests become events
POLICY = "default-src 'none'; connect-src 'self'; img-src 'self' data:; script-src 'self'; style-src 'self'; \
form-action 'self'; base-uri 'none'; frame-ancestors 'none'"


class Around:
    """The middleware. A recorded request's event is in the spool before its answer's last byte leaves."""

    def __init__(self, app: ASGIApp, folder: Path, max_body: int) -> None:
        self._app, self._folder, self._max_body = app, folder, max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun, moment, status = time.perf_counter_ns(), events.timestamp(), 500
        request_id = str(uuid.uuid4())
        event: dict[str, object] = {}
        scope.setdefault("state", {}).update(id=request_id, event=event)
        recorded = scope["path"] in RECORDED

        async def record() -> None:
            fields = {
                "@timestamp": moment,
                "event.action": "generate",
                "event.duration": time.perf_counter_ns() - begun,
                "event.outcome": "success" if status < 400 else "failure",
                "http.request.id": request_id,
                "http.request.method": scope["method"],
                "http.response.status_code": status,
                "url.path": scope["path"],
                **event,
            }
            try:
                await asyncio.to_thread(events.emit, self._folder, events.SERVING, fields)
            except Exception:  # callers are answered even while the disk is full
                log.exception("The event of request %s is lost", request_id)

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                _set_headers(MutableHeaders(scope=message), request_id)
            elif recorded and not message.get("more_body", False):
                await record()
            await send(message)

        try:
            await self._app(scope, _limited(receive, self._max_body), sending)
        except Exception:
            if recorded:
                await record()
            raise


def _limited(receive: Receive, most: int) -> Receive:
    """`receive`, refusing a body of more than `most` bytes as soon as they have come, before anything reads on."""
    came = 0

    async def receiving() -> Message:
        nonlocal came
        message = await receive()
        came += len(message.get("body", b""))
        if came > most:
            raise HTTPException(413, f"The body is larger than {most} bytes, more than any valid request.")
        return message

    return receiving


def _set_headers(headers: MutableHeaders, request_id: str) -> None:
    headers["X-Request-ID"] = request_id
    headers["X-Content-Type-Options"] = "nosniff"
    headers["Referrer-Policy"] = "no-referrer"
    headers.setdefault("Cache-Control", "no-cache" if "etag" in headers else "no-store")
    headers.setdefault("Content-Security-Policy", POLICY)
