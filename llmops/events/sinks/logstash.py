"""The Logstash sink: Logstash's HTTP input, or any receiver that takes a JSON array."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llmops.events.sinks.http_client import TIMEOUT_S, HttpClient
from llmops.events.sinks.sink import Rejection


class LogstashSink:
    """A sink for Logstash's HTTP input. A batch is a JSON array; the `json` codec makes one event of each element.

    After a 2xx answer Logstash is responsible; with a persisted queue it survives a crash. Its answer names no single
    event, so a refused batch is sent again in parts until the faulty events are alone.
    """

    name = "logstash"

    def __init__(
        self, url: str, user: str = "", password: str = "", ca_file: Path | None = None, timeout_s: float = TIMEOUT_S
    ) -> None:
        headers = {"Content-Type": "application/json"}
        if user:
            headers["Authorization"] = "Basic " + b64encode(f"{user}:{password}".encode()).decode()
        self._http_client = HttpClient("Logstash", url, headers, ca_file, timeout_s)

    def send(self, events: Sequence[dict[str, Any]]) -> list[Rejection]:
        """See `Sink`."""
        self._http_client.post(json.dumps(list(events), ensure_ascii=False).encode())
        return []

    def close(self) -> None:
        """See `Sink`."""
        self._http_client.close()
