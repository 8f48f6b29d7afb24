"""Real servers for the tests of sinks."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from .receiver import Receiver

#: the least that makes data streams of our events; the real templates are made from the registry of fields
TEMPLATE = {
    "index_patterns": ["logs-llmops.*-*"],
    "data_stream": {},
    "priority": 500,
    "template": {
        "settings": {"number_of_replicas": 0},
        "mappings": {"properties": {"@timestamp": {"type": "date"}, "llmops.n": {"type": "long"}}},
    },
}


def shared(name: str) -> Path:
    """A file of the folder `shared` beside the project, or beside a folder that the project is in."""
    for parent in Path(__file__).resolve().parents:
        if (there := parent / "shared" / name).exists():
            return there
    pytest.skip(f"there is no shared/{name} beside the project")


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def answers(url: str, within_s: float = 90.0) -> None:
    end = time.monotonic() + within_s
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            assert time.monotonic() < end, f"{url} does not answer"
            time.sleep(0.1)


class Elasticsearch:
    """A server that can be killed and started again, with its data."""

    def __init__(self, start: Path, folder: Path) -> None:
        self.port, self._start, self._data = free_port(), start, folder
        self.url, self._process = f"http://127.0.0.1:{self.port}", None

    def start(self) -> None:
        command = [str(self._start), "--port", str(self.port), "--data", str(self._data)]
        self._process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)
        answers(f"{self.url}/_cluster/health?wait_for_status=yellow")

    def kill(self) -> None:
        """With -9, as a machine that loses its power."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(60)


@pytest.fixture(scope="session")
def elasticsearch() -> Iterator[Elasticsearch]:
    start = shared("elasticsearch/start")
    with tempfile.TemporaryDirectory(prefix="events-", ignore_cleanup_errors=True) as folder:
        server = Elasticsearch(start, Path(folder))
        server.start()
        try:
            yield server
        finally:
            with contextlib.suppress(ProcessLookupError):
                server.kill()


@pytest.fixture
def collector(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A collector that takes OTLP over HTTP; gives its URL and the file that it writes."""
    program, port, health = shared("otel/otelcol"), free_port(), free_port()
    received = tmp_path / "received.jsonl"
    (tmp_path / "collector.yaml").write_text(f"""
receivers: {{otlp: {{protocols: {{http: {{endpoint: "127.0.0.1:{port}"}}}}}}}}
exporters: {{file: {{path: {received}, flush_interval: 50ms}}}}
extensions: {{health_check: {{endpoint: "127.0.0.1:{health}"}}}}
service:
  extensions: [health_check]
  telemetry: {{metrics: {{level: none}}}}
  pipelines: {{logs: {{receivers: [otlp], exporters: [file]}}}}
""")
    command = [str(program), "--config", str(tmp_path / "collector.yaml")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        answers(f"http://127.0.0.1:{health}", 30)
        yield f"http://127.0.0.1:{port}", received
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    """A receiver that misbehaves as it is told."""
    made = Receiver(tmp_path / "receiver", sys.executable)
    made.start()
    try:
        yield made
    finally:
        made.kill()
