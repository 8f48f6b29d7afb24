"""The load generator against a server that behaves as llama.cpp's does now and then."""

import asyncio
import json
import socketserver
import threading
from collections.abc import Callable
from types import ModuleType

ANSWER = json.dumps({"response": "Three days.", "usage": {"output_tokens": 3}})


class OnceOnly(socketserver.StreamRequestHandler):
    """Answers the first request of a connection, and closes it without a word at the second."""

    def handle(self) -> None:
        self._read_request()
        self.wfile.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(ANSWER)}\r\n\r\n{ANSWER}".encode())
        self.rfile.readline()

    def _read_request(self) -> None:
        length = 0
        while (line := self.rfile.readline()) not in (b"\r\n", b""):
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        self.rfile.read(length)


def test_a_connection_is_not_used_again(script: Callable[[str], ModuleType]) -> None:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), OnceOnly) as server:
        threading.Thread(target=server.serve_forever).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        seen, _ = asyncio.run(script("asking").ask_all("whole", url, ["a", "b", "c"], 1, 5))
        server.shutdown()
    assert [(one.status, one.tokens) for one in seen] == [(200, 3)] * 3
