"""Receivers of events: a real collector, and one that misbehaves."""

from __future__ import annotations

import socket
import subprocess
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


@pytest.fixture
def collector(tmp_path: Path, free_port: int) -> Iterator[tuple[str, Path]]:
    """A collector that takes OTLP over HTTP; gives its URL and the file that it writes."""
    program, received = shared("otel/otelcol"), tmp_path / "received.jsonl"
    (tmp_path / "collector.yaml").write_text(f"""
receivers: {{otlp: {{protocols: {{http: {{endpoint: "127.0.0.1:{free_port}"}}}}}}}}
exporters: {{file: {{path: {received}, flush_interval: 50ms}}}}
service:
  telemetry: {{metrics: {{level: none}}}}
  pipelines: {{logs: {{receivers: [otlp], exporters: [file]}}}}
""")

    def listens() -> bool:
        assert process.poll() is None
        with socket.socket() as probe:
            return not probe.connect_ex(("127.0.0.1", free_port))

    command = [str(program), "--config", str(tmp_path / "collector.yaml")]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_until(listens, "the collector")
            yield f"http://127.0.0.1:{free_port}", received
        finally:
            process.terminate()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A receiver that misbehaves as it is told."""
    with Receiver() as made:
        yield made
