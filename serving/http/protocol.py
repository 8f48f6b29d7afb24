"""HTTP/1.1 on one connection, with bounds on everything that a caller may send or hold before the app knows its key.

It also ignores the offer of an upgrade. Bodies are bounded by `serving.http.middleware`.
"""

from __future__ import annotations

import asyncio
import resource
import sys
from http import HTTPStatus
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

#: How long an unused connection stays open. It is longer than that of clients (httpx 5 s) and balancers (60 s), because
#: the side that sends the requests must close first; else a request may meet a closed connection.
KEEP_ALIVE_S = 75
_OTHER_FILES = 200  #: files that the process needs besides connections; it has about 50 open


class BoundedProtocol(HttpToolsProtocol):
    """One connection. It is closed when its caller breaks a bound, with 408, 431 or 503 if no answer is under way.

    uvicorn has no bounds here: its `limit_concurrency` counts requests whose headers are complete, and any byte of a
    header or of an unread body ends its timeout for unused connections.
    """

    max_head = 32_768  #: most bytes of a request's line and headers, and of what surrounds the pieces of its body
    max_fields = 100  #: most headers; a short one costs 30 times its bytes in memory
    max_pipelined = 8  #: most requests that wait for the answer before them
    max_connections = 1024  #: of the process, if it may open so many files; one address may have half of them
    head_s = 30.0  #: most time from a request's first byte, or from that of a connection, to the end of its headers

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See `asyncio.Protocol`. Refuse the connection if there are too many."""
        self._held = 0  # bytes received since the last complete header or piece of a body
        self._deadline: asyncio.TimerHandle | None = None
        self._ends_at = 0.0
        self._refusal = 400, "Invalid HTTP request received."
        super().connection_made(transport)
        self._end_in(self.head_s)
        most = min(self.max_connections, _count_free_files())
        hosts = [one.client[0] for one in self.connections if isinstance(one, BoundedProtocol) and one.client]
        same = hosts.count(self.client[0]) if self.client else 0
        if len(self.connections) > most or same > max(most // 2, 1):
            self._refuse(503, "Too many connections are open here; try again later.")

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._end_never()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self._data = data
        self._held += len(data)
        super().data_received(data)
        if self._held > self.max_head and not self.transport.is_closing():
            self._refuse(431, f"The headers have more than {self.max_head} bytes.")

    def on_message_begin(self) -> None:
        """See `httptools`."""
        super().on_message_begin()
        if self._deadline and self._ends_at > self.loop.time() + self.head_s:
            self._end_in(self.head_s)

    def on_header(self, name: bytes, value: bytes) -> None:
        """See `httptools`. It is also called for the trailers of a body."""
        if len(self.headers) >= self.max_fields:
            self._refusal = 431, f"There are more than {self.max_fields} headers."
            raise ValueError(self._refusal)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """See `httptools`."""
        self._held = 0
        if len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers) > self.max_head:
            self._refusal = 431, f"The headers have more than {self.max_head} bytes."
            raise ValueError(self._refusal)
        if len(self.pipeline) >= self.max_pipelined:
            raise ValueError("Too many requests were sent before the first was answered.")
        self._end_never()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """See `httptools`."""
        self._held = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """See `httptools`."""
        self._held = 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """See `HttpToolsProtocol`."""
        super().on_response_complete()
        if self.cycle.response_complete:  # nothing is pipelined
            self._end_in(self.head_s if self._held else self.timeout_keep_alive)

    def pause_writing(self) -> None:
        """See `asyncio.Protocol`. The app gives up first, but its `close` would wait for the caller to read."""
        super().pause_writing()
        self._end_in(self.config.timeout_graceful_shutdown or KEEP_ALIVE_S)

    def resume_writing(self) -> None:
        """See `asyncio.Protocol`."""
        super().resume_writing()
        if self._is_answering() and not self.transport.is_closing():
            self._end_never()

    def send_400_response(self, msg: str) -> None:
        """See `HttpToolsProtocol`."""
        self._refuse(*self._refusal)

    def _should_upgrade(self) -> bool:
        return True  # uvicorn then calls `handle_websocket_upgrade` first

    def handle_websocket_upgrade(self) -> None:
        """Parse the same request again without the offer of an upgrade, as RFC 9110, 7.8, allows.

        Java's own client offers HTTP/2 (`Upgrade: h2c`) with its first request. The parser then ends after the headers;
        uvicorn would lose the body, and the request would be refused as empty.
        """
        error, method = sys.exc_info()[1], self.parser.get_method()
        if method == b"CONNECT" or not isinstance(error, httptools.HttpParserUpgrade):
            self._refuse(400, "This is no proxy.")
            return
        headers = b"".join(b"%s: %s\r\n" % header for header in self.headers if header[0] != b"upgrade")
        head = b"%s %s HTTP/%s\r\n%s\r\n" % (method, self.url, self.parser.get_http_version().encode(), headers)
        self.parser = httptools.HttpRequestParser(self)
        self.data_received(head + self._data[error.args[0] :])

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _refuse(self, status: int, message: str) -> None:
        """Close the connection, after a response with this status if no answer is under way."""
        if not self._is_answering():
            headers = f"Content-Type: text/plain; charset=utf-8\r\nContent-Length: {len(message)}\r\nConnection: close"
            head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n{headers}\r\n\r\n"
            self.transport.write((head + message).encode())
        self.transport.close()
        self._end_in(self.head_s)

    def _end_in(self, seconds: float) -> None:
        self._end_never()
        self._ends_at = self.loop.time() + seconds
        self._deadline = self.loop.call_later(seconds, self._end)

    def _end_never(self) -> None:
        if self._deadline:
            self._deadline.cancel()
            self._deadline = None

    def _end(self) -> None:
        self._deadline = None
        if self._held and not self.transport.is_closing() and not self._is_answering():
            self._refuse(408, f"The headers were not complete after {self.head_s:g} s.")
        else:
            self.transport.abort()  # `close` would wait until the caller has read everything


def _count_free_files() -> int:
    """Return how many connections the process may have, by its limit of open files."""
    limit: Any = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return sys.maxsize if limit == resource.RLIM_INFINITY else max(limit - _OTHER_FILES, 16)
