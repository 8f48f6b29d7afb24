"""A real Elasticsearch that is empty at first, where one is beside the project, and its users."""

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from llmops.config import Monitoring
from llmops.monitoring.elk.setup import PASSAGES_USER, READER_USER, SEARCH_USER, WRITER_USER
from tests.clock import wait_until
from tests.conftest import find_free_port, shared

ADMIN = {"ELASTIC_USERNAME": "boss", "ELASTIC_PASSWORD": "secret-boss"}
WRITES, READS = (WRITER_USER, "secret-writer"), (READER_USER, "secret-reader")
LOADS, SEARCHES = (PASSAGES_USER, "secret-loader"), (SEARCH_USER, "secret-search")


@pytest.fixture(scope="module")
def secured_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a server with an admin, and with our roles, from a file, each for a user of its name.

    `event_server` is not it: what is set up here, and taken down, is all that the server has.
    """
    folder = tmp_path_factory.mktemp("log")
    port = find_free_port()
    roles = Path(__file__).parents[3] / "llmops" / "monitoring" / "elk" / "roles.yaml"
    command = [str(shared("elasticsearch/start")), "--port", str(port), "--roles", str(roles)]
    command += ["--user", ":".join([*ADMIN.values(), "superuser"])]
    for name, password in (WRITES, READS, LOADS, SEARCHES):
        command += ["--user", f"{name}:{password}:{name}"]
    url = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        assert process.poll() is None, (folder / "log").read_text()[-3000:]
        try:
            return httpx.get(f"{url}/_cluster/health", auth=tuple(ADMIN.values())).status_code == 200
        except httpx.TransportError:
            return False

    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_until(answers, "Elasticsearch", 240)
        yield url
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture
def config(secured_server: str) -> Monitoring:
    return Monitoring(sinks=("elasticsearch",), elasticsearch_url=secured_server)


@pytest.fixture(scope="module")
def ask(secured_server: str) -> Callable[..., Any]:
    """Asks the server as admin, and gives what it says."""

    def ask(method: str, path: str, body: Any = None) -> Any:
        answer = httpx.request(method, secured_server + path, json=body, auth=tuple(ADMIN.values()), timeout=60)
        assert answer.status_code < 400, answer.text
        return answer.json()

    return ask
