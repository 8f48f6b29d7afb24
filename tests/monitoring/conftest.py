"""Real servers for the tests of sinks."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..event_server import answers, free_port, shared
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
