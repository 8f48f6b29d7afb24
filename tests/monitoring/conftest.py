"""Receivers of events: a real collector, and one that misbehaves."""

from __future__ import annotations

import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clock import wait_until

from .receiver import Receiver


def shared(name: str) -> Path:
    """A file of the folder `shared` beside the project, or beside a folder that the project is in."""
    for parent in Path(__file__).resolve().parents:
        if (there := parent / "shared" / name).exists():
            return there
    pytest.skip(f"there is no shared/{name} beside the project")


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=30):
            return True
    except OSError:
        return False


@pytest.fixture
def collector(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A collector that takes OTLP over HTTP; gives its URL and the file that it writes."""
    program, received = shared("otel/otelcol"), tmp_path / "received.jsonl"
    for _ in range(5):  # somebody else may take a free port before the collector does
        with socket.socket() as one, socket.socket() as other:
            for free in (one, other):
                free.bind(("127.0.0.1", 0))
            port, health = one.getsockname()[1], other.getsockname()[1]
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
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            try:
                url = f"http://127.0.0.1:{health}"
                wait_until(lambda p=process, url=url: p.poll() is not None or answers(url), "the collector")
                if process.poll() is None:
                    yield f"http://127.0.0.1:{port}", received
                    return
            finally:
                process.terminate()
    pytest.fail("the collector does not start")


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A receiver that misbehaves as it is told."""
    with Receiver() as made:
        yield made
