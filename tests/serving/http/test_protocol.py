"""Requests of clients that offer another protocol, byte by byte on a real socket."""

import json
import socket
import threading

import pytest
import uvicorn

from serving.http.server import NoUpgradeProtocol
from tests.clock import wait_until

H2C = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABk\r\n"
WEBSOCKET = "Connection: Upgrade\r\nUpgrade: websocket\r\n"


async def repeat_request(scope, receive, send):
    """Answers with the request's method, path and body."""
    if scope["type"] != "http":
        return
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    answer = f"{scope['method']} {scope['path']} ".encode() + body
    head = [(b"content-length", str(len(answer)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": head})
    await send({"type": "http.response.body", "body": answer})


@pytest.fixture(scope="module")
def address():
    server = uvicorn.Server(
        uvicorn.Config(repeat_request, port=0, log_level="error", lifespan="off", http=NoUpgradeProtocol)
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_until(lambda: server.started)
    yield server.servers[0].sockets[0].getsockname()
    server.should_exit = True
    thread.join(50)
    assert not thread.is_alive()


def format_request(offer, body=b'{"prompt": "hi"}', method="POST"):
    return f"{method} /generate?x=1 HTTP/1.1\r\nHost: x\r\n{offer}Content-Length: {len(body)}\r\n\r\n".encode() + body


def receive_bodies(sock, last):
    """Return the bodies of all answers up to one that ends so."""
    found = b""
    while not found.endswith(last):
        found += sock.recv(4096) or pytest.fail(f"The connection was closed after {found!r}.")
    return [answer.split(b"\r\n\r\n")[1] for answer in found.split(b"HTTP/1.1 200 OK\r\n")[1:]]


@pytest.mark.parametrize("offer", ["", H2C, WEBSOCKET])
@pytest.mark.parametrize("size", [7, 10**6])
def test_a_request_is_read_whole_whatever_is_offered_and_however_it_is_cut(address, offer, size):
    sent = (
        format_request(offer)
        + format_request(offer, json.dumps("x" * 300).encode(), "PUT")
        + format_request(offer, b"", "GET")
    )
    with socket.create_connection(address, timeout=50) as sock:
        for at in range(0, len(sent), size):
            sock.sendall(sent[at : at + size])
        expected = [b'POST /generate {"prompt": "hi"}', b"PUT /generate " + json.dumps("x" * 300).encode()]
        assert receive_bodies(sock, b"GET /generate ") == [*expected, b"GET /generate "]


def test_chunks_are_read_too_and_it_is_no_proxy(address):
    head = f"POST / HTTP/1.1\r\nHost: x\r\n{H2C}Transfer-Encoding: chunked\r\n\r\n".encode()
    with socket.create_connection(address, timeout=50) as sock:
        sock.sendall(head + b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")
        assert receive_bodies(sock, b"POST / abcde") == [b"POST / abcde"]
        sock.sendall(b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org\r\n\r\n")
        assert b" 400 " in sock.recv(1000)
