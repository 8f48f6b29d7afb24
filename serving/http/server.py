"""uvicorn's server with a shutdown that loses no request, and HTTP/1.1 for clients that offer an upgrade."""

from __future__ import annotations

import gc
import signal
import socket
import sys
import threading
from types import FrameType

import httptools
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

#: How long an unused connection stays open. It is longer than that of clients (httpx 5 s) and balancers (60 s), because
#: the side that sends the requests must close first; else a request may meet a closed connection.
KEEP_ALIVE_S = 75
SWITCH_S = 0.001  #: most time that a background thread keeps the event loop waiting; Python's default is 5 ms


class DrainingServer(uvicorn.Server):
    """uvicorn's server that accepts requests for another `drain_s` seconds after SIGTERM, while `/readyz` answers 503.

    Accepted requests are always answered. A second SIGTERM, or Ctrl-C, ends the wait.
    """

    def __init__(self, config: uvicorn.Config, app: FastAPI, drain_s: float) -> None:
        super().__init__(config)
        self._app, self._drain_s = app, drain_s

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """See `uvicorn.Server`. Exempt all objects made so far from garbage collection."""
        await super().startup(sockets)
        gc.collect()
        gc.freeze()
        sys.setswitchinterval(SWITCH_S)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """See `uvicorn.Server`."""
        delayed = sig == signal.SIGTERM and self._drain_s > 0 and not self._app.state.draining
        self._app.state.draining = True
        if delayed:
            timer = threading.Timer(self._drain_s, super().handle_exit, (sig, None))
            timer.daemon = True
            timer.start()
        else:
            super().handle_exit(sig, frame)


class NoUpgradeProtocol(HttpToolsProtocol):
    """A protocol that ignores the offer of an upgrade, as RFC 9110, 7.8, allows.

    Java's own client offers HTTP/2 (`Upgrade: h2c`) with its first request. The parser then ends after the headers;
    uvicorn would lose the body, and the request would be refused as empty.
    """

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self._data = data
        super().data_received(data)

    def _should_upgrade(self) -> bool:
        return True  # uvicorn then calls `handle_websocket_upgrade` first

    def handle_websocket_upgrade(self) -> None:
        """Parse the same request again without the offer, and with the data after its headers."""
        error, method = sys.exc_info()[1], self.parser.get_method()
        if method == b"CONNECT" or not isinstance(error, httptools.HttpParserUpgrade):
            self.send_400_response("This is no proxy.")
            return
        headers = b"".join(b"%s: %s\r\n" % header for header in self.headers if header[0] != b"upgrade")
        head = b"%s %s HTTP/%s\r\n%s\r\n" % (method, self.url, self.parser.get_http_version().encode(), headers)
        self.parser = httptools.HttpRequestParser(self)
        self.data_received(head + self._data[error.args[0] :])
