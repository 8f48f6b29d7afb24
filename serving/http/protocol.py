"""HTTP/1.1 for uvicorn, also from clients that offer something newer; bounded before anybody has shown a key.

Whoever connects may send `MOST_HEAD` bytes in `MOST_HEADERS` headers within `HEAD_S` seconds, and `limit_concurrency`
of uvicorn's configuration is how many connections there are at most. Where that is reached, a new one takes the place
of one that sent no whole head, else of one without a key that is known, else of one that asks for nothing or does not
take its answer; of several, of the one that has been quiet the longest. So who only holds connections keeps nobody out.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sized
from typing import Any, Literal

import httptools
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

MOST_HEAD = 65_536  #: bytes of a request's line and headers, or between two pieces of its body
MOST_HEADERS = 100
MOST_AHEAD = 100  #: requests on a connection that wait for the answer to the one before
HEAD_S = 20.0  #: for the headers, from a connection's beginning or their own
REST_S = 5.0  #: for what is left of a body when its answer has been given already
STILL_S = 5.0  #: for a client to take something of what was written, before another may have its connection
FLUSH_S = 60.0  #: for a client to take what was written, once the connection is being closed

_WORDS = {
    408: "The headers were not complete in time.",
    429: f"At most {MOST_AHEAD} requests are taken ahead of their answers.",
    431: f"At most {MOST_HEAD} bytes in {MOST_HEADERS} headers are taken.",
    503: "There are too many connections.",
}


class BoundedProtocol(HttpToolsProtocol):
    """Bounds what a connection may send and hold; `bounded` is to be called about every second.

    A request that offers an upgrade is answered as if it did not, which RFC 9110, 7.8, lets a server do. Java's own
    client offers HTTP/2 (`Upgrade: h2c`) with its first request, whatever that is. The parser then ends after the
    headers, so that uvicorn lost the body and the request was refused as empty.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._most, self.limit_concurrency = self.limit_concurrency, None  # uvicorn's own way refuses whoever is new
        self._data = b""
        self._unread = 0  # bytes that came since the parser gave something on
        self._coming: Literal["head", "body", ""] = "head"  # what of a request is not complete
        self._since = self._heard = self.loop.time()
        self._running: RequestResponseCycle | None = None  # what is answered now, or was last
        self._unsent, self._sent = 0, self._since  # bytes that wait to be taken, and when they last changed
        self._closing_since = 0.0
        self._refusal = 400

    def connection_made(self, transport: Any) -> None:
        """See `asyncio.Protocol`."""
        super().connection_made(transport)
        self.flow = _Reading(transport, self.pipeline)
        if self._most and len(self.connections) > self._most:
            others = [one for one in self.connections if isinstance(one, BoundedProtocol) and one is not self]
            idle = min(
                (one for one in others if one._may_go()), key=lambda one: (one._rank(), one._heard), default=None
            )
            if idle:
                self.connections.discard(idle)
                idle.transport.abort()
            else:
                self._refuse(503)

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`; uvicorn tells only the last request that came, and not the one that is answered."""
        if self._running and not self._running.response_complete:
            self._running.disconnected = True
            self._running.message_event.set()
        super().connection_lost(exc)

    def bounded(self, now: float) -> None:
        """Close the connection if it takes too long, by the loop's time `now`."""
        if (unsent := self.transport.get_write_buffer_size()) != self._unsent or not unsent:
            self._unsent, self._sent = unsent, now
        if self.transport.is_closing():
            self._closing_since = self._closing_since or now
            if now > self._closing_since + FLUSH_S:
                self.transport.abort()
        elif self.cycle is None or self.cycle.response_complete:
            if self._coming == "head" and now > self._since + HEAD_S:
                self._refuse(408)
            elif self._coming == "body" and now > self._since + REST_S:
                self.transport.close()

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        if not self._coming and (self.cycle is None or self.cycle.response_complete):
            self._await("head")  # also where it is nothing but empty lines, after which uvicorn waits forever
        self._data = data
        self._unread += len(data)
        super().data_received(data)
        if self._unread > MOST_HEAD and not self.transport.is_closing():
            self._refuse(431)

    def on_message_begin(self) -> None:
        """See `httptools`."""
        super().on_message_begin()
        self._await("head")

    def on_header(self, name: bytes, value: bytes) -> None:
        """See `httptools`; what comes after a body is left out, as nobody reads it."""
        if self._coming == "head":
            if len(self.headers) == MOST_HEADERS:
                self._fail(431)
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """See `httptools`."""
        if len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > MOST_HEAD:
            self._fail(431)
        if len(self.pipeline) >= MOST_AHEAD:
            self._fail(429)
        self._await("body")
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """See `httptools`."""
        self._unread, self._heard = 0, self.loop.time()
        super().on_body(body)

    def on_message_complete(self) -> None:
        """See `httptools`."""
        self._await("")
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """See `uvicorn`."""
        self._since = self._heard = self.loop.time()
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """Tell why a request is not read, and close."""
        self._refuse(self._refusal, msg)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def _may_go(self) -> bool:
        """Whether a new connection may take the place: no whole request with a key is being answered and taken."""
        running = self._running
        if running is None or running.response_complete or running.more_body or not self._known():
            return True
        return self.transport.is_closing() or bool(self._unsent and self.loop.time() > self._sent + STILL_S)

    def _rank(self) -> int:
        """How much there is to lose: no whole head, then no key that is known, then all else."""
        return 0 if self._running is None else 1 + self._known()

    def _known(self) -> bool:
        """Whether the app knows whose key the last request has that it was given; it notes that in the event."""
        state = self._running.scope.get("state", {}) if self._running else {}
        return "llmops.key.prefix" in state.get("event", {})

    def _await(self, coming: Literal["head", "body", ""]) -> None:
        self._coming, self._unread = coming, 0
        self._since = self._heard = self.loop.time()

    def _fail(self, status: int) -> None:
        """End the parsing: `send_400_response` is called then."""
        self._refusal = status
        raise ValueError(_WORDS[status])

    def _refuse(self, status: int, words: str = "") -> None:
        if self.cycle is None or self.cycle.response_complete:  # or it would stand in the middle of an answer
            said = _WORDS.get(status, words).encode()
            head = b"content-type: text/plain; charset=utf-8\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
            self.transport.write(STATUS_LINE[status] + head % len(said) + said)
        self.transport.close()

    def _should_upgrade(self) -> bool:
        return True  # so that nothing begins before `handle_websocket_upgrade` is called

    def handle_websocket_upgrade(self) -> None:
        """Read the same request once more without the offer, and with what came after its headers."""
        ended, method = sys.exc_info()[1], self.parser.get_method()
        if method == b"CONNECT" or not isinstance(ended, httptools.HttpParserUpgrade):
            self.send_400_response("This is no proxy.")
            return
        kept = b"".join(b"%s: %s\r\n" % header for header in self.headers if header[0] != b"upgrade")
        head = b"%s %s HTTP/%s\r\n%s\r\n" % (method, self.url, self.parser.get_http_version().encode(), kept)
        self.parser = httptools.HttpRequestParser(self)
        self.data_received(head + self._data[ended.args[0] :])


class _Reading(FlowControl):
    """Reads nothing on while requests wait for the answers to those before; uvicorn would with each answer.

    So they have 256 KiB at most, which is what is read at once.
    """

    def __init__(self, transport: asyncio.Transport, ahead: Sized) -> None:
        super().__init__(transport)
        self._ahead = ahead

    def resume_reading(self) -> None:
        """See `FlowControl`."""
        if not self._ahead:
            super().resume_reading()
