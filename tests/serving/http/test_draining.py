"""SIGTERM: what was taken is answered, and a load balancer is told in time."""

import re
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import httpx
import pytest
import uvicorn

from llmops.events.datasets import SERVING
from llmops.events.sinks.local import LocalStore
from serving.http import server as http_server
from serving.http.server import DrainingServer

#: Gets SIGTERM as soon as eight requests were taken, none of them answered: two are in the batch, six wait.
PROCESS = """
    import json, os, signal, sys
    from llmops.config import Config
    from serving.app import serve
    from tests.serving.echo import EchoEngine

    class Full(EchoEngine):
        def generate(self, request):
            stream = super().generate(request)
            self.taken = getattr(self, "taken", 0) + 1
            if self.taken == 8:
                os.kill(os.getpid(), signal.SIGTERM)
                self.may_step.set()
            return stream

    def engine(version):
        engine = Full(max_batch=2)
        engine.may_step.clear()
        return engine

    serve(Config(**json.loads(sys.argv[1])), engine)
"""


@pytest.mark.service
def test_what_was_taken_before_sigterm_is_answered(new_site, tmp_path):
    site = new_site(tmp_path, host="127.0.0.1", port=0).release()
    command = [sys.executable, "-c", textwrap.dedent(PROCESS), site.config.model_dump_json()]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            url = next(found[0] for line in process.stderr if (found := re.search(r"http://127\.0\.0\.1:\d+", line)))
            threading.Thread(target=process.stderr.read, daemon=True).start()  # so that a full pipe stops nobody
            site.until(lambda: httpx.get(f"{url}/readyz", timeout=50).status_code == 200, 200)

            def ask(n):
                body = {"prompt": "word " * 10, "stream": n % 2 == 0}
                return httpx.post(f"{url}/generate", json=body, headers=site.headers(), timeout=200)

            with ThreadPoolExecutor(8) as callers:
                answers = list(callers.map(ask, range(8)))
            assert process.wait(100) in (0, -signal.SIGTERM)
        finally:
            process.kill()
    assert [answer.status_code for answer in answers] == [200] * 8
    assert all('"stop"' in answer.text for answer in answers)
    events = list(LocalStore(site.config.events).find(SERVING))  # the shipper has shipped before it ended
    assert sorted(e["http.request.id"] for e in events) == sorted(a.headers["X-Request-ID"] for a in answers)


def test_sigterm_ends_it_after_the_wait_and_a_second_one_at_once(monkeypatch):
    app, timers = SimpleNamespace(state=SimpleNamespace(draining=False)), []

    def timer(*arguments):
        timers.append(arguments)
        return SimpleNamespace(start=lambda: None)

    monkeypatch.setattr(http_server, "threading", SimpleNamespace(Timer=timer))
    for second in (False, True):
        app.state.draining = False
        server = DrainingServer(uvicorn.Config(app), app, drain_s=60)
        server.handle_exit(signal.SIGTERM, None)
        assert app.state.draining and not server.should_exit
        (seconds, end, arguments) = timers.pop()
        if second:
            server.handle_exit(signal.SIGTERM, None)
        else:
            end(*arguments)
        assert seconds == 60 and server.should_exit and not timers


def test_while_draining_it_is_not_ready_and_still_answers(site, client):
    client.app.state.draining = True
    unready = client.get("/readyz")
    assert (unready.status_code, unready.json()["detail"]) == (503, "The app is being stopped.")
    answer = site.ask(client)
    assert answer.status_code == 200 and answer.headers["Connection"] == "close"


def test_a_caller_who_never_sends_the_rest_of_its_body_does_not_hold_up_the_end(new_site, tmp_path):
    head = b"POST /generate HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 100\r\n\r\n"
    with new_site(tmp_path, timeout_s=0.5).release().live() as url:
        sock = socket.create_connection(("127.0.0.1", httpx.URL(url).port), timeout=50)
        sock.sendall(head + b'{"prompt"')
        assert b" 100 " in sock.recv(4096)  # the body is being read; leaving the block waits for the server's end
    with sock:
        answer = sock.recv(4096)
    assert b" 408 " in answer and b"connection: close" in answer.lower()
