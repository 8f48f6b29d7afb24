"""Serve HTTP to one test."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = tuple[int, dict[str, str], bytes]  #: status, headers, body


@contextmanager
def served(answer: Callable[[str, str, Mapping[str, str], bytes], Answer], at: str = "127.0.0.1") -> Iterator[str]:
    """Yield the URL of a server that answers each method, path, headers and body so.

    A body shorter than its `Content-Length` is a broken line.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            asked = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, headers, body = answer(self.command, self.path, self.headers, asked)
            length = headers.setdefault("Content-Length", str(len(body)))
            self.send_response(status)
            for name, text in headers.items():
                self.send_header(name, text)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)
                self.close_connection = self.close_connection or len(body) < int(length)

        do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer((at, 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:  # a test that fails would leave a thread that no process ends with
        server.shutdown()
        server.server_close()
        thread.join()
