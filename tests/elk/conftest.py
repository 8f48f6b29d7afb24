"""A real Elasticsearch, where one is beside the project, and its users."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from llmops.config import Monitoring
from llmops.elk.objects import READER, WRITER, roles

ROOT = Path(__file__).parents[2]
ADMIN = {"ELASTIC_USERNAME": "boss", "ELASTIC_PASSWORD": "secret-boss"}
WRITES, READS = (WRITER, "secret-writer"), (READER, "secret-reader")


def start_script() -> Path:
    """`shared/elasticsearch/start` beside the project, or beside the checkout that a worktree is of."""
    places = [parent / "shared" / "elasticsearch" / "start" for parent in ROOT.parents]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        pytest.skip("there is no shared/elasticsearch/start beside the project")
    return found


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a server with an admin, and with our roles, from a file, for a writer and a reader."""
    file = tmp_path_factory.mktemp("roles") / "roles.yml"
    file.write_text(yaml.safe_dump(roles()))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    users = [f"{ADMIN['ELASTIC_USERNAME']}:{ADMIN['ELASTIC_PASSWORD']}:superuser"]
    users += [f"{name}:{password}:{name}" for name, password in (WRITES, READS)]
    command = [str(start_script()), "--port", str(port), "--roles", str(file)]
    with open(file.with_name("log"), "wb") as log:
        process = subprocess.Popen(
            [*command, *(word for user in users for word in ("--user", user))],
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        _wait(url, process, file.with_name("log"))
        yield url
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 240
    while True:
        try:
            if httpx.get(f"{url}/_cluster/health", auth=tuple(ADMIN.values())).status_code == 200:
                return
        except httpx.TransportError:
            pass
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(0.5)


@pytest.fixture
def config(server: str) -> Monitoring:
    """The configuration of a server."""
    return Monitoring(sinks=("elasticsearch",), elasticsearch_url=server)


@pytest.fixture(scope="session")
def ask(server: str) -> Callable[..., Any]:
    """Asks the server as admin, and gives what it says."""

    def ask(method: str, path: str, body: Any = None) -> Any:
        answer = httpx.request(method, server + path, json=body, auth=tuple(ADMIN.values()), timeout=60)
        assert answer.status_code < 400, answer.text
        return answer.json()

    return ask
