"""One connection, byte by byte on a real socket: offers of other protocols, and the bounds that hold without a key."""

import asyncio
import json
import socket
import threading

import pytest
import uvicorn

from serving.http import protocol
from serving.http.protocol import KEEP_ALIVE_S, BoundedProtocol
from tests.clock import FakeClock, wait_until

H2C = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABk\r\n"
WEBSOCKET = "Connection: Upgrade\r\nUpgrade: websocket\r\n"


async def repeat_request(scope, receive, send):
    """Answers with the request's method, path and body."""
    if scope["type"] != "http":
        return
    body, more = b"", scope["path"] != "/unread"
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
        uvicorn.Config(repeat_request, port=0, log_level="error", lifespan="off", http=BoundedProtocol)
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


def receive_all(sock):
    found = b""
    while piece := sock.recv(4096):
        found += piece
    return found


LONG, FIELDS = BoundedProtocol.max_head, BoundedProtocol.max_fields
GET = b"GET /generate HTTP/1.1\r\nHost: x\r\n"
CHUNKED = b"POST /unread HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (GET + b"X: " + b"a" * LONG, b"431"),  # a header without an end
        (GET + b"X: " + b"a" * LONG + b"\r\n\r\n", b"431"),  # the same, read in one piece
        (b"GET /" + b"a" * LONG + b" HTTP/1.1\r\n\r\n", b"431"),
        (GET + b"a:\r\n" * FIELDS + b"\r\n", b"431"),
        (b"\r\n" * LONG, b"431"),  # empty lines before a request
        (b"no request\r\n\r\n", b"400"),
    ],
)
def test_headers_that_no_request_needs_are_refused(address, sent, status):
    with socket.create_connection(address, timeout=50) as sock:
        sock.sendall(sent)
        assert receive_all(sock).startswith(b"HTTP/1.1 " + status)


@pytest.mark.parametrize("sent", [b"1;" + b"a" * LONG, b"0\r\nX: " + b"a" * LONG, b"0\r\n" + b"a:\r\n" * FIELDS])
def test_so_are_extensions_of_chunks_and_trailers_which_no_app_sees(address, sent):
    with socket.create_connection(address, timeout=50) as sock:
        sock.sendall(CHUNKED)
        receive_bodies(sock, b"POST /unread ")
        sock.sendall(sent)
        assert receive_all(sock).startswith(b"HTTP/1.1 431")


def test_the_longest_headers_pass_and_so_do_small_pieces_of_a_long_body(address):
    body = b"1\r\nx\r\n" * (LONG // 3)
    with socket.create_connection(address, timeout=50) as sock:
        sock.sendall(GET + b"X: " + b"a" * (LONG - 100) + b"\r\n\r\n")
        receive_bodies(sock, b"GET /generate ")
        sock.sendall(CHUNKED.replace(b"unread", b"") + body + b"0\r\n\r\n")
        receive_bodies(sock, b"POST / " + b"x" * (LONG // 3))


def test_an_answer_under_way_is_dropped_with_too_many_requests_behind_it(address):
    unfinished = b"POST / HTTP/1.1\r\nContent-Length: 10\r\n\r\n0123456789"
    with socket.create_connection(address, timeout=50) as sock:
        sock.sendall(unfinished * (BoundedProtocol.max_pipelined + 1))
        receive_bodies(sock, b"0123456789")
        sock.sendall(unfinished * (BoundedProtocol.max_pipelined + 2))
        assert receive_all(sock).count(b"200 OK") <= BoundedProtocol.max_pipelined + 1


class Served:
    """A server in the test's own loop, whose time a test moves."""

    def __init__(self):
        self.clock, self.connections = FakeClock(), []

    async def start(self):
        loop = asyncio.get_running_loop()
        loop.time = lambda: self.clock.seconds
        config = uvicorn.Config(repeat_request, lifespan="off", timeout_keep_alive=KEEP_ALIVE_S)
        state = uvicorn.server.ServerState()

        def connect():
            self.connections.append(BoundedProtocol(config, state, {}))
            return self.connections[-1]

        self.server = await loop.create_server(connect, "127.0.0.1")
        return self

    async def connect(self, sent=b""):
        """Return a new connection's reader and writer; the server has received what was sent."""
        known = len(self.connections)
        reader, writer = await asyncio.open_connection(*self.server.sockets[0].getsockname())
        writer.write(sent)
        while len(self.connections) == known or self.connections[-1]._held < len(sent):
            await asyncio.sleep(0)
        return reader, writer

    async def pass_time(self, seconds):
        self.clock.advance(seconds)
        for _ in range(3):  # timers run in the next turn of the loop, a connection ends in the one after it
            await asyncio.sleep(0)


def run(test):
    async def start_and_test():
        served = await Served().start()
        await test(served)
        served.server.close()

    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:  # its time can be moved
        runner.run(start_and_test())


@pytest.mark.parametrize(("sent", "answer"), [(GET, b"HTTP/1.1 408"), (b"\r\n", b"HTTP/1.1 408"), (b"", b"")])
def test_a_connection_must_bring_its_headers_in_time_however_often_it_sends_a_byte(sent, answer):
    async def test(served):
        reader, writer = await served.connect(sent)
        [connection] = served.connections
        for _ in range(3):
            await served.pass_time(BoundedProtocol.head_s / 4)
            if sent:
                held = connection._held
                writer.write(b"X: y\r\n" if sent == GET else b"\r\n")
                while connection._held == held:
                    await asyncio.sleep(0)
        assert not connection.transport.is_closing()
        await served.pass_time(BoundedProtocol.head_s / 4)
        assert connection.transport.is_closing()
        found = await reader.read()
        assert found.startswith(answer) and bool(found) == bool(answer)

    run(test)


@pytest.mark.parametrize(
    ("more", "seconds", "answer"),
    [
        (b"", KEEP_ALIVE_S, b""),
        (GET, BoundedProtocol.head_s, b"HTTP/1.1 408"),  # half of the next request
        (b"2\r\nab", KEEP_ALIVE_S, b""),  # the rest of a body that the app has not read does not prolong it
    ],
)
def test_after_an_answer_the_next_headers_must_be_complete_in_time(more, seconds, answer):
    async def test(served):
        sent = CHUNKED if more.startswith(b"2") else GET.replace(b"generate", b"unread") + b"\r\n"
        reader, writer = await served.connect()
        writer.write(sent)
        await reader.readuntil(b"/unread ")
        writer.write(more)
        [connection] = served.connections
        while more and not (connection._held or more.startswith(b"2")):
            await asyncio.sleep(0)
        await served.pass_time(seconds - 0.01)
        assert not connection.transport.is_closing()
        writer.write(b"1\r\nx" if more.startswith(b"2") else b"")
        await served.pass_time(0.02)
        assert (await reader.read()).startswith(answer)

    run(test)


def test_a_caller_who_does_not_read_its_answer_is_left():
    async def test(served):
        _, writer = await served.connect()
        [connection] = served.connections
        writer.transport.pause_reading()
        connection.transport.set_write_buffer_limits(1)
        while not connection.flow.write_paused:
            connection.transport.write(b"x" * 2**20)
        connection.transport.close()  # as uvicorn does after the app has given up
        await served.pass_time(KEEP_ALIVE_S)
        assert connection not in connection.connections

    run(test)


def test_connections_are_counted_in_all_and_by_address(monkeypatch):
    limits = []
    monkeypatch.setattr(protocol.resource, "getrlimit", lambda kind: (limits[-1], 10**6))

    async def test(served):
        limits.append(protocol._OTHER_FILES + 20)
        kept = [await served.connect() for _ in range(10)]
        reader, _ = await served.connect()
        assert (await reader.read()).startswith(b"HTTP/1.1 503")  # half of 20 have this address
        for connection in served.connections:
            connection.client = ("192.0.2.1", 1)
        kept += [await served.connect() for _ in range(10)]
        for connection in served.connections:
            connection.client = ("192.0.2.2", 1)
        reader, _ = await served.connect()
        assert (await reader.read()).startswith(b"HTTP/1.1 503") and len(kept) == 20
        kept[0][1].close()
        while len(served.connections[0].connections) == 20:
            await asyncio.sleep(0)
        await served.connect()
        assert not served.connections[-1].transport.is_closing()

    run(test)
