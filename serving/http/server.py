"""uvicorn's server that ends without losing a request, and HTTP/1.1 also from clients that offer something newer."""

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

#: for the next request of a connection, in seconds. More than clients (httpx 5) and balancers (60) leave theirs unused:
#: the side that sends the requests must be the one that closes, or one of them meets a closed connection.
KEEP_ALIVE_S = 75
SWITCH_S = 0.001  #: for so long a thread of the background may keep the event loop waiting; Python's default is 5 ms


class DrainingServer(uvicorn.Server):
    """uvicorn's server, which on SIGTERM goes on for `drain_s` seconds with `/readyz` red before it takes no more.

    Requests that were taken are answered in any case. A second SIGTERM, or Ctrl-C, cuts the wait short.
    """

    def __init__(self, config: uvicorn.Config, app: FastAPI, drain_s: float) -> None:
        super().__init__(config)
        self._app, self._drain_s = app, drain_s

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """See `uvicorn.Server`; from here on garbage is looked for among what requests make, not among all modules."""
        await super().startup(sockets)
        gc.collect()
        gc.freeze()
        sys.setswitchinterval(SWITCH_S)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """See `uvicorn.Server`."""
        waits = sig == signal.SIGTERM and self._drain_s > 0 and not self._app.state.draining
        self._app.state.draining = True
        if waits:
            timer = threading.Timer(self._drain_s, super().handle_exit, (sig, None))
            timer.daemon = True
            timer.start()
        else:
            super().handle_exit(sig, frame)


class StayingProtocol(HttpToolsProtocol):
    """Answers a request that offers an upgrade as if it did not, which RFC 9110, 7.8, lets a server do.

    Java's own client offers HTTP/2 (`Upgrade: h2c`) with its first request. The parser then ends after the headers, so
    that uvicorn lost the body and the request was refused as empty.
    """

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self._data = data
        super().data_received(data)

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
