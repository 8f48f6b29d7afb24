"""The middleware: every request gets an id, a limited body, security headers, and an event if it asks a model."""

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

from llmops.access.keys import KeyStore
from llmops.events.datasets import SERVING
from llmops.events.events import build_event, format_timestamp
from llmops.events.spool import Spool
from serving.admission.signing import make_request_id
from serving.errors import ClientLeft
from serving.http.problems import respond_to_error
from serving.observe.exchange import Exchange
from serving.observe.text_events import TextRecorder
from serving.observe.traces import Traces

log = logging.getLogger(__name__)

#: path whose requests become events → OpenTelemetry's name for what it does
RECORDED_PATHS = {
    "/generate": "text_completion",
    "/classify": "classify",
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
    """The middleware of the app. The event of a request is in the spool before the last byte of its answer leaves.

    A body may have `max_body` bytes. It must arrive within `timeout_s`, and a client must accept each piece of the
    answer within `timeout_s`. `count` gets the fields of each request that asks a model, answered or not.
    """

    def __init__(
        self,
        app: ASGIApp,
        folder: Path,
        max_body: int,
        timeout_s: float,
        count: CountRequest,
        texts: TextRecorder,
        traces: Traces,
    ) -> None:
        self._app, self._recorder, self._count = app, Recorder(folder), count
        self._max_body, self._timeout_s, self._texts, self._traces = max_body, timeout_s, texts, traces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on to the app, and write its event afterwards."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start_ns, start_time, status, recorded, timed_out = time.perf_counter_ns(), format_timestamp(), 0, False, False
        event: dict[str, object] = {}
        fields: dict[str, object] = {}  # all fields of the event, once it is recorded
        exchange, trace = Exchange(), None
        state, request_id = scope.setdefault("state", {}), make_request_id()
        state.update(id=request_id, event=event, start_ns=start_ns)  # an answer's id is signed later
        state["exchange"] = exchange
        if scope["path"] in RECORDED_PATHS:
            trace = self._traces.begin(scope, time.time_ns(), start_ns)
            if trace.id:
                event["trace.id"] = trace.id

        async def record() -> None:
            nonlocal recorded
            if scope["path"] not in RECORDED_PATHS or recorded:
                return
            recorded = True
            fields.update(
                {
                    "@timestamp": start_time,
                    "event.action": "generate",
                    "event.id": request_id,
                    "event.duration": time.perf_counter_ns() - start_ns,
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
            if "llmops.key.prefix" not in event and status < 500:  # it was refused before its key was checked
                scope["app"].state.parts.audit.record_decision(scope, "invalid")
                return
            if await _is_erased(scope["app"].state.parts.keys, str(event.get("llmops.key.prefix", ""))):
                return
            try:
                await self._recorder.record(fields)
            except Exception:  # answer callers even while the disk is full
                log.exception("The event of request %s is lost", state["id"])

        async def send_message(message: Message) -> None:
            nonlocal status, timed_out
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                _set_headers(headers, state["id"])
                if scope["app"].state.draining:  # the next request on this connection would find no server
                    headers["Connection"] = "close"
                if allowance := state.get("allowance"):
                    headers.update(allowance.make_headers())
            elif not message.get("more_body", False):
                await record()
            if timed_out:
                return
            try:
                async with asyncio.timeout(self._timeout_s):
                    await send(message)
            except TimeoutError:
                timed_out = True
                raise ClientLeft(f"The client accepted nothing of the answer for {self._timeout_s:g} s.") from None

        try:
            await self._app(scope, _limit_body(receive, self._max_body, self._timeout_s), send_message)
        except Exception as error:
            if status:  # the answer has begun, so its status cannot change
                status = 500
                await record()
                raise
            await (await respond_to_error(Request(scope), error))(scope, receive, send_message)
        finally:
            if trace:
                trace.end(fields, exchange, time.perf_counter_ns())
            self._texts.offer(fields, exchange)


async def _is_erased(keys: KeyStore, prefix: str) -> bool:
    return keys.is_erased(prefix) if keys.is_cached(prefix) else await asyncio.to_thread(keys.is_erased, prefix)


def _limit_body(receive: Receive, max_bytes: int, timeout_s: float) -> Receive:
    """Return a `receive` that refuses a body as soon as it has more than `max_bytes`.

    It also refuses a body that is not complete after `timeout_s` seconds, which would hold its connection, and the
    shutdown of the app, forever.
    """
    received, complete, deadline = 0, False, asyncio.get_running_loop().time() + timeout_s

    async def receive_limited() -> Message:
        nonlocal received, complete
        if complete:
            return await receive()  # waits until the caller leaves
        try:
            async with asyncio.timeout_at(deadline):
                message = await receive()
        except TimeoutError:
            detail = f"The body was not complete after {timeout_s:g} s."
            raise HTTPException(408, detail, {"Connection": "close"}) from None
        received += len(message.get("body", b""))
        complete = not message.get("more_body", False)
        if received > max_bytes:
            raise HTTPException(413, f"The body is larger than {max_bytes} bytes, more than any valid request.")
        return message

    return receive_limited


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
    """Group commit: while one batch is written, the next one gathers, and its requests share one commit."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._next = _Batch()
        self._writing = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, "events")  # one thread, because it owns the connection
        self._spool: Spool | None = None

    async def record(self, fields: Mapping[str, Any]) -> None:
        """Write an event to the spool; see `events.emit`.

        Raises:
            Exception: if the batch could not be committed, such as on a full disk.
        """
        batch = self._next
        batch.events.append(build_event(SERVING, fields))
        async with self._writing:
            if not batch.committed:  # the first request of a batch commits for all
                self._next = _Batch()
                try:
                    await asyncio.get_running_loop().run_in_executor(self._thread, self._commit, batch.events)
                except Exception as error:
                    batch.error = error
                batch.committed = True
        if batch.error:
            raise batch.error

    def _commit(self, events: list[dict[str, Any]]) -> None:
        spool = self._spool = self._spool or Spool(self._folder)  # an open spool commits eight times as fast
        try:
            spool.append(events)
        except Exception:
            self._spool = None  # the next commit opens another
            spool.close()
            raise
