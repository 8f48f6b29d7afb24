"""Telling all receivers something that is no alert, to see whether it comes."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from llmops.alerts.finding import document
from llmops.alerts.receivers.base import Receiver
from llmops.config import Config
from llmops.errors import said
from llmops.monitoring.events import timestamp


def try_out(config: Config, receivers: Sequence[Receiver]) -> dict[str, str]:
    """Tell each once; returns what went wrong by their names, nothing where it was told."""
    now = timestamp()
    message = "This is a test of who is told of alerts; nothing has happened."
    finding: dict[str, Any] = {"message": message, "value": None, "bound": None, "since": "", "until": ""}
    row = {"id": uuid.uuid4().hex, "rule": "test", "subject": "", "place": "", "severity": "warning"}
    told = document(config, {**row, "finding": {**finding, "details": {}}, "raised": now, "resolved": now}, "test")

    def send(receiver: Receiver) -> str:
        try:
            receiver.send(told)
        except Exception as error:  # which is what is asked for
            return f"{type(error).__name__}: {said(error)}"
        return ""

    with ThreadPoolExecutor(max(1, len(receivers))) as pool:
        return dict(zip([receiver.name for receiver in receivers], pool.map(send, receivers), strict=True))
