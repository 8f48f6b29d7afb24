"""The images of serving that need no GPU, built by podman, started as in production and asked: `make test-images`."""

import json
import queue
import shutil
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.clock import wait_until

from .conftest import Home
from .podman import build, podman
from .test_lambda import v2

MOST_MIB = 700  #: of packages in the image for CPUs
#: As Compose and Kubernetes run it: nothing can be written but /tmp and the home, no capability, no way to get one.
HARDENED = ("--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")
SEEN = """
import os, pathlib
print(os.getuid(), *(p for p in ("/", "/opt/venv", "/etc") if not os.statvfs(p).f_flag & os.ST_RDONLY))
print(sum(p.lstat().st_size for p in pathlib.Path("/opt/venv").rglob("*") if p.is_file()) // 2**20)
"""


@pytest.fixture
def start() -> Iterator[Callable[..., str]]:
    names: list[str] = []

    def start(*arguments: str) -> str:
        names.append(podman("run", "--runtime=runc", "--detach", "--network=host", *HARDENED, *arguments))
        return names[-1]

    yield start
    for name in names:
        print(subprocess.run(["podman", "logs", name], capture_output=True, text=True).stderr[-3000:])
        podman("rm", "--force", "--time=0", name)


def test_the_image_answers_and_loses_no_request_when_it_is_told_to_stop(
    start: Callable[..., str], released: Home, tmp_path: Path, free_port: int
) -> None:
    image = build("docker/serving-cpu.Dockerfile", "localhost/llmops-test-serving")
    home = shutil.copytree(released.path, tmp_path / "home")
    many = 10**9
    settings = {"HOST": "127.0.0.1", "PORT": free_port, "DRAIN_S": 3}
    settings |= {"REQUESTS_PER_MINUTE": many, "TOKENS_PER_MINUTE": many}
    environ = [f"--env=LLMOPS_SERVING__{name}={value}" for name, value in settings.items()]
    registry = [f"--volume={released.path / 'registry'}:/models:ro", "--env=LLMOPS_RELEASE__REGISTRY=/models"]
    begun = time.monotonic()
    container = start(f"--volume={home}:/var/lib/llmops:U", *registry, *environ, image)
    client = httpx.Client(base_url=f"http://127.0.0.1:{free_port}", timeout=60, headers={"X-API-Key": released.key})
    wait_until(lambda: ready(client), "readiness", 120)
    user, mib = podman("exec", container, "python", "-c", SEEN).splitlines()
    print(f"ready after {time.monotonic() - begun:.1f} s, packages {mib} MiB")
    assert user == "10001" and int(mib) < MOST_MIB
    assert "llmops_" in podman("exec", container, "llmops", "keys", "create", "--role", "user", "--owner", "ann")
    stop, found = threading.Event(), list[int | str]()  # statuses, and errors of connections

    def ask() -> None:
        while not stop.is_set():
            body = {"prompt": "Where is my order?", "max_new_tokens": 32}
            try:
                found.append(client.post("/generate", json=body).status_code)
            except httpx.HTTPError as error:
                found.append(repr(error))

    callers = [threading.Thread(target=ask, daemon=True) for _ in range(8)]
    for caller in callers:
        caller.start()
    try:
        wait_until(lambda: len(found) >= 100, "the hundredth answer", 120)
        podman("kill", "--signal=TERM", container)
        wait_until(lambda: not ready(client), "that it is not ready", 30)
    finally:
        stop.set()  # a balancer sends no more to a server that is not ready
    for caller in callers:
        caller.join(70)
    assert not any(caller.is_alive() for caller in callers), "a request was never answered"
    code = podman("wait", container, timeout=60)
    print(f"answers: {Counter(found)}, exit code {code}")
    # In the end uvicorn raises the signal again, which process 1 of a container survives; under an init it is 143.
    assert set(found) == {200} and code == "0"


def ready(client: httpx.Client) -> bool:
    try:
        return client.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False


def test_the_lambda_image_answers_an_event(start: Callable[..., str], released: Home, tmp_path: Path) -> None:
    home = shutil.copytree(released.path, tmp_path / "home")
    image = build("docker/lambda/Dockerfile", "localhost/llmops-test-lambda", f"--build-context=home={home}")
    answer, seconds = first_answer(start, image, released.key)
    print(f"first answer {seconds:.1f} s after the process began")
    assert answer["statusCode"] == 200 and json.loads(answer["body"])["model_version"] == "v1"


def first_answer(start: Callable[..., str], image: str, key: str) -> tuple[dict[str, Any], float]:
    """Start a function's image as Lambda does. Return its first answer, and how long its process took to give it."""
    body = json.dumps({"prompt": "Where is my order?", "max_new_tokens": 4})
    event = json.dumps(v2("POST", "/generate", {"content-type": "application/json", "x-api-key": key}, body))
    answers = queue.Queue[tuple[dict[str, Any], float]]()

    class Runtime(BaseHTTPRequestHandler):
        """Lambda's runtime API: gives the event whenever it is asked for one, and takes the answer."""

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Lambda-Runtime-Aws-Request-Id", "1")
            self.send_header("Lambda-Runtime-Deadline-Ms", "9999999999999")
            self.send_header("Content-Type", "application/json")  # without it, awslambdaric 4.2.2 crashes
            self.reply(event.encode())

        def do_POST(self) -> None:
            answers.put((json.loads(self.rfile.read(int(self.headers["Content-Length"]))), time.time()))
            self.send_response(202)
            self.reply(b"")

        def reply(self, data: bytes) -> None:
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    with ThreadingHTTPServer(("127.0.0.1", 0), Runtime) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        container = start(f"--env=AWS_LAMBDA_RUNTIME_API=127.0.0.1:{server.server_port}", image)
        answer, at = answers.get(timeout=120)
        server.shutdown()
    return answer, at - int(podman("inspect", "--format={{.State.StartedAt.UnixMilli}}", container)) / 1000
