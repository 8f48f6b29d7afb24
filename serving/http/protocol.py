"""HTTP/1.1 for uvicorn, also from clients that offer something newer."""

from __future__ import annotations

import sys

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class StayingProtocol(HttpToolsProtocol):
    """Answers a request that offers an upgrade as if it did not, which RFC 9110, 7.8, lets a server do.

    Java's own client offers HTTP/2 (`Upgrade: h2c`) with its first request, whatever that is. The parser then ends
    after the headers, so that uvicorn lost the body and the request was refused as empty.
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
