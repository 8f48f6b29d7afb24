"""What one who has no key may send and hold, byte by byte on real sockets of the real server."""

import contextlib
import gc
import itertools
import socket
import struct
import time

import httpx
import pytest

from serving.http import middleware, protocol

MOST_SENT = 16 * 2**20  #: bytes that the kernel's buffers and the server take together, at most
LARGE = b"GET /swagger/swagger-ui-bundle.js HTTP/1.1\r\nHost: x\r\n"
REQUEST = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
ENDLESS = {
    "big headers": (b"GET / HTTP/1.1\r\nHost: x\r\n", b"X-A: " + b"a" * 60_000 + b"\r\n"),
    "one header": (b"GET / HTTP/1.1\r\nHost: x\r\nX-A: ", b"a" * 65_536),
    "many headers": (b"GET / HTTP/1.1\r\nHost: x\r\n", b"a:b\r\n" * 10_000),
    "the address": (b"GET /", b"a" * 65_536),
    "empty lines": (REQUEST, b"\r\n" * 30_000),
    "after a body": (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n", b"X-A: b\r\n" * 10_000),
    "an extension of a chunk": (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1;", b"a" * 65_536),
    "requests": (REQUEST, REQUEST * 1800),
}


@pytest.fixture
def site(new_site, tmp_path):
    return new_site(tmp_path, max_connections=12).release()


@pytest.fixture
def address(site):
    with site.live() as url:
        yield "127.0.0.1", int(url.rpartition(":")[2])


def url_of(address):
    return "http://{}:{}".format(*address)


@contextlib.contextmanager
def connections(address, count):
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(socket.create_connection(address, timeout=20)) for _ in range(count)]


def alive(sock):
    """Whether the other side has not closed it."""
    sock.settimeout(0)
    try:
        while sock.recv(65_536):
            pass
        return False
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        sock.settimeout(20)


def received(sock):
    """All that comes until the other side closes."""
    said = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := sock.recv(65_536):
            said += piece
    return said


@pytest.mark.parametrize("what", ENDLESS)
def test_what_has_no_end_is_cut(site, address, what):
    begin, more = ENDLESS[what]
    with socket.create_connection(address, timeout=20) as sock:
        sock.sendall(begin)
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            for _ in range(MOST_SENT // len(more)):
                sock.sendall(more)
    assert httpx.get(url_of(address) + "/healthz").status_code == 200


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"X-A: " + b"a" * 64_000 + b"\r\n", 200),
        (b"X-A: " + b"a" * 66_000 + b"\r\n", 431),
        (b"X-A: b\r\n" * 99, 200),
        (b"X-A: b\r\n" * 100, 431),
    ],
)
def test_headers_of_a_size_are_taken(address, head, status):
    with socket.create_connection(address, timeout=20) as sock:
        sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + head + b"\r\n")
        assert sock.recv(1000).split()[1] == str(status).encode()


@pytest.mark.parametrize("sent", [b"", b"GET / HT", b"\r\n", REQUEST + b"GET /he"])
def test_a_head_that_does_not_end_is_given_up(address, monkeypatch, sent):
    monkeypatch.setattr(protocol, "HEAD_S", 0.2)
    with socket.create_connection(address, timeout=20) as sock:
        sock.sendall(sent)
        assert received(sock).count(b" 408 ") == 1


def test_a_body_that_nobody_needs_is_given_up(address, monkeypatch):
    monkeypatch.setattr(protocol, "REST_S", 0.2)
    with socket.create_connection(address, timeout=20) as sock:
        sock.sendall(b"POST /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n")
        assert b" 405 " in sock.recv(1000)
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            while True:  # as slow as may be
                sock.sendall(b"a")
                time.sleep(0.05)


def test_a_body_that_trickles_is_given_up(address, monkeypatch):
    monkeypatch.setattr(middleware, "BODY_S", 0.2)
    with socket.create_connection(address, timeout=20) as sock:
        sock.sendall(b"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")
        assert b" 408 " in received(sock)


def test_who_holds_all_connections_keeps_nobody_out(address):
    sent = itertools.cycle([b"", b"GET / HT", b"POST /generate HTTP/1.1\r\nContent-Length: 9\r\n\r\n{", REQUEST])
    with connections(address, 40) as held:
        for sock in held:
            sock.sendall(next(sent))
        with httpx.Client(base_url=url_of(address)) as client:  # the newest keeps its connection
            assert [client.get("/healthz").status_code for _ in range(3)] == [200] * 3
        assert sum(map(alive, held)) <= 12


def test_nor_does_who_reads_nothing_of_what_is_answered(address):
    with contextlib.ExitStack() as stack:
        for _ in range(12):
            sock = stack.enter_context(socket.socket())
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect(address)
            sock.sendall((LARGE + b"\r\n") * 20)
        time.sleep(0.5)  # until no more is taken
        with httpx.Client(base_url=url_of(address)) as client:
            assert [client.get("/healthz").status_code for _ in range(3)] == [200] * 3


def test_who_leaves_in_the_middle_of_answers_fills_no_log(site, address, caplog):
    for _ in range(12):
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect(address)
            sock.sendall((LARGE + b"\r\n") * 3)
            time.sleep(0.03)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # its end is a reset
    assert httpx.get(url_of(address) + "/healthz").status_code == 200
    time.sleep(0.3)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_what_waits_for_the_answer_before_is_not_read(address):
    head = b"X-A: " + b"a" * 60_000 + b"\r\n\r\n"
    with socket.create_connection(address, timeout=0.5) as sock:
        with contextlib.suppress(TimeoutError):
            for request in [REQUEST[:-2]] * 30 + [LARGE] * 90:
                sock.sendall(request + head)
        served = [one for one in gc.get_objects() if isinstance(one, protocol.BoundedProtocol)]
        assert 0 < max(len(one.pipeline) for one in served if one in one.connections) <= 6


def test_a_slow_body_is_taken_while_others_hold_connections(site, address):
    body = b'{"prompt": "one two"}'
    head = f"POST /generate HTTP/1.1\r\nHost: x\r\nX-API-Key: {site.keys['user']}\r\nContent-Type: application/json\r\n"
    with socket.create_connection(address, timeout=20) as sock, contextlib.ExitStack() as stack:
        sock.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode())
        for at in range(0, len(body), 7):
            stack.enter_context(connections(address, 14))
            time.sleep(0.1)
            sock.sendall(body[at : at + 7])
        assert b" 200 " in sock.recv(10_000)


def test_answers_in_the_making_are_not_cut_for_those_who_come(site, address):
    engine = site.engines["v1"]
    engine.going.clear()
    body = b'{"prompt": "one two"}'
    head = f"POST /generate HTTP/1.1\r\nHost: x\r\nX-API-Key: {site.keys['user']}\r\nContent-Type: application/json\r\n"
    request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
    with connections(address, 12) as asking:
        for sock in asking:
            sock.sendall(request)
        site.until(lambda: engine.stats().running + engine.stats().waiting == 12)
        with socket.create_connection(address, timeout=20) as late:
            assert b" 503 " in received(late)
        engine.going.set()
        assert all(b" 200 " in sock.recv(10_000) for sock in asking)


def test_a_slow_client_is_answered_and_may_stay(address):
    with socket.create_connection(address, timeout=20) as sock:
        for _ in range(2):
            for byte in REQUEST:
                sock.sendall(bytes([byte]))
                time.sleep(0.005)
            assert b" 200 " in sock.recv(10_000)
