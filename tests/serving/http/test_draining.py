"""SIGTERM to a real process: what was taken is answered, and a load balancer is told in time."""

import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import closing
from http.client import HTTPConnection

import httpx
import pytest

from llmops.monitoring.datasets import SERVING
from llmops.monitoring.sinks.local import LocalStore

PROCESS = """
    import gc, json, sys, threading, time
    from llmops.config import Config
    from serving.app import serve
    from serving.engines.echo import EchoEngine

    def tell():
        while not gc.get_freeze_count():
            time.sleep(0.05)
        print("frozen:", gc.get_freeze_count(), file=sys.stderr, flush=True)

    threading.Thread(target=tell, daemon=True).start()
    serve(Config(**json.loads(sys.argv[1])), lambda version: EchoEngine(max_batch=2, token_s=0.05))
"""


@pytest.fixture
def start(new_site, tmp_path, free_port):
    """Starts the app in a process of its own."""
    running = []

    def start(**serving):
        site = new_site(tmp_path, host="127.0.0.1", port=free_port, **serving).release()
        command = [sys.executable, "-c", textwrap.dedent(PROCESS), site.config.model_dump_json()]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        running.append(process)
        url = f"http://127.0.0.1:{free_port}"
        site.until(lambda: is_ready(url), 60)
        return site, process, url

    yield start
    for process in running:
        process.kill()
        process.wait()
        process.stderr.close()


def is_ready(url):
    try:
        return httpx.get(f"{url}/readyz", timeout=2).status_code == 200
    except httpx.TransportError:
        return False


def ask_many(site, url, count):
    """Threads that ask, and where their answers will be."""
    answers = []

    def ask(n):
        body = {"prompt": "word " * 10, "stream": n % 2 == 0}
        answers.append(httpx.post(f"{url}/generate", json=body, headers=site.headers(), timeout=60))

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(count)]
    for thread in threads:
        thread.start()
    return threads, answers


def test_what_was_taken_before_sigterm_is_answered(start):
    site, process, url = start()
    threads, answers = ask_many(site, url, 8)
    time.sleep(0.5)  # two are being answered now, six wait
    process.send_signal(signal.SIGTERM)
    for thread in threads:
        thread.join()
    assert process.wait(30) in (0, -signal.SIGTERM)
    assert [answer.status_code for answer in answers] == [200] * 8
    assert all('"stop"' in answer.text for answer in answers)
    events = list(LocalStore(site.config.events).find(SERVING))  # the shipper has shipped before it ended
    assert sorted(e["http.request.id"] for e in events) == sorted(a.headers["X-Request-ID"] for a in answers)


def test_while_draining_it_is_not_ready_and_still_answers(start):
    site, process, url = start(drain_s=1.5)
    begun = time.monotonic()
    process.send_signal(signal.SIGTERM)
    site.until(lambda: not is_ready(url))
    assert httpx.get(f"{url}/readyz").json()["detail"] == "It is being stopped."
    answer = httpx.post(f"{url}/generate", json={"prompt": "late"}, headers=site.headers())
    assert answer.status_code == 200 and answer.headers["Connection"] == "close"
    process.wait(30)
    assert time.monotonic() - begun > 1.4


def test_a_caller_who_never_sends_the_rest_of_its_body_does_not_hold_up_the_end(start, free_port):
    site, process, url = start(timeout_s=1.5)
    with socket.create_connection(("127.0.0.1", free_port)) as sock:
        sock.sendall(b'POST /generate HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{"prompt"')
        time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        answer = sock.recv(4096)
    process.wait(20)
    assert b" 408 " in answer and b"connection: close" in answer.lower()


def test_a_second_sigterm_does_not_wait(start):
    site, process, url = start(drain_s=60)
    process.send_signal(signal.SIGTERM)
    site.until(lambda: not is_ready(url))
    process.send_signal(signal.SIGTERM)
    process.wait(20)


def test_a_connection_is_kept_longer_than_clients_leave_theirs_unused(start):
    _, process, url = start()
    with closing(HTTPConnection(url.removeprefix("http://"), timeout=20)) as connection:
        for wait_s in (0, 6):  # httpx lets go of a connection after 5 s, at which both would close it at once
            time.sleep(wait_s)
            connection.request("GET", "/healthz")
            assert connection.getresponse().read() == b'{"status":"alive"}'
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) in (0, -signal.SIGTERM)  # who keeps one does not keep the app


def test_looking_for_garbage_does_not_stop_all_answers_for_the_sake_of_modules(start):
    _, process, _ = start()  # a full search over them takes a third of a second, in which nobody is answered
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=30)[1]
    assert int(said.split("frozen: ")[1].split()[0]) > 100_000
