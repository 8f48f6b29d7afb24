"""The middleware gives every request an id, a limit on its body, security headers, and an event if it asks a model."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llmops.monitoring.datasets import SERVING
from llmops.monitoring.events import build, timestamp
from llmops.monitoring.spool import Spool
from serving.admission.signing import new_request_id
from serving.errors import ClientLeft
from serving.http.problems import problem_response
from serving.observe.exchange import Exchange
from serving.observe.texts import Texts
from serving.observe.traces import Traces

log = logging.getLogger(__name__)

#: path whose requests become events → OpenTelemetry's name for what it does
RECORDED_PATHS = {
    "/generate": "text_completion",
    "/v1/chat/completions": "chat",
    "/v1/completions": "text_completion",
    "/v1/embeddings": "embeddings",
}
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; connect-src 'self'; img-src 'self' data:; script-src 'self'; style-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)

CountRequest = Callable[[Mapping[str, object]], None]


class RequestMiddleware:
    """Wraps the app. The event of a request is in the spool before the last byte of its answer leaves.

    A body may have `max_body` bytes. `timeout_s` is the longest that it may take to come, and that a client may take to
    accept a piece of the answer. `count` gets the fields of each request that asks a model, answered or not.
    """

    def __init__(
        self,
        app: ASGIApp,
        folder: Path,
        max_body: int,
        timeout_s: float,
        secret: bytes,
        count: CountRequest,
        texts: Texts,
        traces: Traces,
    ) -> None:
        self._app, self._recorder, self._secret, self._count = app, Recorder(folder), secret, count
        self._max_body, self._timeout_s, self._texts, self._traces = max_body, timeout_s, texts, traces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on to the app, and write its event afterwards."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun, moment, status, recorded, gone = time.perf_counter_ns(), timestamp(), 0, False, False
        event: dict[str, object] = {}
        fields: dict[str, object] = {}  # those of its event, once it is recorded
        exchange, trace = Exchange(), None
        state = scope.setdefault("state", {})
        state.update(id=new_request_id(self._secret), event=event, begun=begun)  # the id may be marked later
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
            fields.update(
                {
                    "@timestamp": moment,
                    "event.action": "generate",
                    "event.duration": time.perf_counter_ns() - begun,
                    "event.outcome": "success" if status < 400 else "failure",
                    "gen_ai.operation.name": RECORDED_PATHS[scope["path"]],
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
                status = message["status"]
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
            if status:  # the answer had begun: its status cannot change any more
                status = 500
                await record()
                raise
            await (await problem_response(Request(scope), error))(scope, receive, sending)
        finally:
            if trace:
                trace.end(fields, exchange, time.perf_counter_ns())
            self._texts.offer(fields, exchange)


def _limited_body(receive: Receive, most: int, timeout_s: float) -> Receive:
    """Make a `receive` that refuses a body of more than `most` bytes as soon as these have come.

    It also refuses a body that is not complete after `timeout_s` seconds: it would hold its connection, and the end of
    the app, forever.
    """
    came, whole, end = 0, False, asyncio.get_running_loop().time() + timeout_s

    async def receiving() -> Message:
        nonlocal came, whole
        try:
            async with asyncio.timeout_at(None if whole else end):
                message = await receive()
        except TimeoutError:
            detail = f"The body was not complete after {timeout_s:g} s."
            raise HTTPException(408, detail, {"Connection": "close"}) from None
        came += len(message.get("body", b""))
        whole = not message.get("more_body", False)
        if came > most:
            raise HTTPException(413, f"The body is larger than {most} bytes, more than any valid request.")
        return message

    return receiving


def _set_headers(headers: MutableHeaders, request_id: str) -> None:
    headers["X-Request-ID"] = request_id
    headers["X-Content-Type-Options"] = "nosniff"
    headers["Referrer-Policy"] = "no-referrer"
    headers.setdefault("Cache-Control", "no-cache" if "etag" in headers else "no-store")
    headers.setdefault("Content-Security-Policy", CONTENT_SECURITY_POLICY)


@dataclass(slots=True, eq=False)
class _Batch:
    events: list[dict[str, Any]] = field(default_factory=list)
    committed: bool = False
    error: Exception | None = None


class Recorder:
    """Group commit: while one batch goes to disk the next one gathers, so that a commit's wait is shared."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._next = _Batch()
        self._writing = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, "events")  # one, for the connection belongs to its thread
        self._spool: Spool | None = None

    async def record(self, fields: Mapping[str, Any]) -> None:
        """Have an event in the spool when this returns; see `events.emit`.

        Raises:
            Exception: why the batch could not be committed, a full disk say.
        """
        mine = self._next
        mine.events.append(build(SERVING, fields))
        async with self._writing:
            if not mine.committed:  # the first of a batch commits for all of it
                self._next = _Batch()
                try:
                    await asyncio.get_running_loop().run_in_executor(self._thread, self._commit, mine.events)
                except Exception as error:
                    mine.error = error
                mine.committed = True
        if mine.error:
            raise mine.error

    def _commit(self, events: list[dict[str, Any]]) -> None:
        spool = self._spool = self._spool or Spool(self._folder)  # kept open, which makes a commit eight times as fast
        try:
            spool.append(events)
        except Exception:
            self._spool = None  # whatever is wrong with it, the next commit opens another
            spool.close()
            raise
