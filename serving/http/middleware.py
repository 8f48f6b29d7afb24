"""What every request gets: an id, a limit on its body, security headers, and an event if it asks a model."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llmops.monitoring.events import timestamp
from llmops.monitoring.figures.requests import EMBEDDINGS
from serving.admission.signing import new_request_id
from serving.errors import ClientLeft
from serving.http.problems import problem_response
from serving.observe.exchange import Exchange
from serving.observe.recorder import Recorder
from serving.observe.texts import Texts
from serving.observe.traces import Traces

log = logging.getLogger(__name__)

#: path whose requests become events → OpenTelemetry's name for what it does
RECORDED_PATHS = {
    "/generate": "text_completion",
    "/v1/chat/completions": "chat",
    "/v1/completions": "text_completion",
    "/v1/embeddings": EMBEDDINGS,
}
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; connect-src 'self'; img-src 'self' data:; script-src 'self'; style-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)

BODY_S = 20.0  #: for a body, and a second more for each
LEAST_RATE = 500  #: bytes of it that have come

CountRequest = Callable[[Mapping[str, object]], None]


class RequestMiddleware:
    """Wraps the app. The event of a request is in the spool before the last byte of its answer leaves.

    Args:
        app: what answers.
        folder: where events are kept.
        max_body: most bytes of a body.
        timeout_s: longest that a body may take to come, and that a client may take to accept a piece of the answer, in
            seconds. A body is given up before that where it comes more slowly than `BODY_S` and `LEAST_RATE` say.
        count: gets the fields of each request that asks a model, answered or not.
        texts: gets what each of them asked and was answered, when the answer has left.
        traces: makes their spans.
    """

    def __init__(
        self,
        app: ASGIApp,
        folder: Path,
        max_body: int,
        timeout_s: float,
        count: CountRequest,
        texts: Texts,
        traces: Traces,
    ) -> None:
        self._app, self._recorder, self._count = app, Recorder(folder), count
        self._max_body, self._timeout_s, self._texts, self._traces = max_body, timeout_s, texts, traces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun, moment, status, recorded, gone = time.perf_counter_ns(), timestamp(), 0, False, False
        event: dict[str, object] = {}
        fields: dict[str, object] = {}  # those of its event, once it is recorded
        exchange, trace = Exchange(), None
        state = scope.setdefault("state", {})
        state.update(id=new_request_id(), event=event, begun=begun)  # an answer gives it another id
        state["exchange"] = exchange
        if scope["path"] in RECORDED_PATHS:
            trace = self._traces.begin(scope, time.time_ns(), begun)
            if trace.id:
                event["trace.id"] = trace.id

        async def record() -> None:
            nonlocal recorded
            if scope["path"] not in RECORDED_PATHS or recorded:
                return
            recorded = True
            operation = RECORDED_PATHS[scope["path"]]
            fields.update(
                {
                    "@timestamp": moment,
                    "event.action": "embed" if operation == EMBEDDINGS else "generate",
                    "event.duration": time.perf_counter_ns() - begun,
                    "event.outcome": "success" if status < 400 else "failure",
                    "gen_ai.operation.name": operation,
                    "http.request.id": state["id"],
                    "http.request.method": scope["method"],
                    "http.response.status_code": status,
                    "url.path": scope["path"],
                    **event,
                }
            )
            self._count(fields)
            if state.get("refused"):
                return
            if "llmops.key.prefix" not in event and status < 500:  # nobody has asked who this is
                scope["app"].state.parts.audit.note(scope, "invalid")
                return
            try:
                await self._recorder.record(fields)
            except Exception:  # callers are answered even while the disk is full
                log.exception("The event of request %s is lost", state["id"])

        async def sending(message: Message) -> None:
            nonlocal status, gone
            if message["type"] == "http.response.start":
                status, state["told"] = message["status"], True  # the id is in the headers, and stays
                headers = MutableHeaders(scope=message)
                _set_headers(headers, state["id"])
                if scope["app"].state.draining:  # whoever keeps the connection would ask again where nobody is
                    headers["Connection"] = "close"
                if allowance := state.get("allowance"):
                    headers.update(allowance.headers())
            elif not message.get("more_body", False):
                await record()
            if gone:
                return
            try:
                async with asyncio.timeout(self._timeout_s):
                    await send(message)
            except TimeoutError:
                gone = True
                raise ClientLeft(f"Nothing of the answer was taken for {self._timeout_s:g} s.") from None

        try:
            await self._app(scope, _limited_body(receive, self._max_body, self._timeout_s), sending)
        except Exception as error:
            if status:  # the answer had begun: there is nothing to be told any more
                status = 500
                await record()
                raise
            await (await problem_response(Request(scope), error))(scope, receive, sending)
        finally:
            if trace:
                trace.end(fields, exchange, time.perf_counter_ns())
            self._texts.offer(fields, exchange)


def _limited_body(receive: Receive, most: int, timeout_s: float) -> Receive:
    """A `receive` that refuses a body of more than `most` bytes as soon as these have come, whatever follows.

    It also refuses a body that comes too slowly: it would hold its connection, and with it the end of the app, forever.
    """
    came, whole, begun = 0, False, asyncio.get_running_loop().time()

    async def receiving() -> Message:
        nonlocal came, whole
        given_s = min(timeout_s, BODY_S + came / LEAST_RATE)
        try:
            async with asyncio.timeout_at(None if whole else begun + given_s):
                message = await receive()
        except TimeoutError:
            detail = f"The body was not complete after {given_s:.3g} s."
            raise HTTPException(408, detail, {"Connection": "close"}) from None
        came += len(message.get("body", b""))
        whole = not message.get("more_body", False)
        if came > most:
            raise HTTPException(413, f"The body is larger than the {most} bytes that are taken; send less at a time.")
        return message

    return receiving


def _set_headers(headers: MutableHeaders, request_id: str) -> None:
    headers["X-Request-ID"] = request_id
    headers["X-Content-Type-Options"] = "nosniff"
    headers["Referrer-Policy"] = "same-origin"  # with none at all, forms would not tell their origin either
    headers.setdefault("Cache-Control", "no-cache" if "etag" in headers else "no-store")
    headers.setdefault("Content-Security-Policy", CONTENT_SECURITY_POLICY)
