"""What Lambda gives a function: events, and the runtime API from which its client gets them."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


def v1(method, path, headers, body=None, encoded=False):
    """An event of an API Gateway REST API (payload format 1.0)."""
    return {
        "resource": "/{proxy+}",
        "path": path,
        "httpMethod": method,
        "headers": headers,
        "multiValueHeaders": {name: [value] for name, value in headers.items()},
        "queryStringParameters": None,
        "multiValueQueryStringParameters": None,
        "pathParameters": {"proxy": path.strip("/")},
        "requestContext": {"resourcePath": "/{proxy+}", "httpMethod": method, "stage": "prod", "identity": {}},
        "body": body,
        "isBase64Encoded": encoded,
    }


def v2(method, path, headers, body=None, encoded=False, host="abc.execute-api.eu-west-1.amazonaws.com"):
    """An event of an API Gateway HTTP API (payload format 2.0), or with another host of a function URL."""
    return {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": "",
        "headers": {"host": host, **headers},
        "requestContext": {
            "domainName": host,
            "http": {"method": method, "path": path, "protocol": "HTTP/1.1", "sourceIp": "203.0.113.7"},
            "stage": "$default",
        },
        "body": body,
        "isBase64Encoded": encoded,
    }


@contextmanager
def runtime_api(waiting: list[dict[str, Any]]) -> Iterator[tuple[int, queue.Queue[tuple[str, dict[str, Any]]]]]:
    """A server that speaks Lambda's runtime API; gives its port, and the answers with their paths.

    Args:
        waiting: events, which leave it as they are asked for. The names of requests count down.
    """
    answers: queue.Queue[tuple[str, dict[str, Any]]] = queue.Queue()
    done = threading.Event()

    class Runtime(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # /2018-06-01/runtime/invocation/next
            if not waiting:
                done.wait(30)
                return
            body = json.dumps(waiting.pop(0)).encode()
            self.send_response(200)
            self.send_header("Lambda-Runtime-Aws-Request-Id", f"request-{len(waiting)}")
            self.send_header("Lambda-Runtime-Deadline-Ms", "9999999999999")
            self.send_header("Lambda-Runtime-Invoked-Function-Arn", "arn:aws:lambda:eu-west-1:0:function:llmops")
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            answers.put((self.path, json.loads(body)))
            self.send_response(202)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Runtime)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_port, answers
    finally:
        done.set()
        server.shutdown()
        server.server_close()
