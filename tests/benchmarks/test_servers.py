"""Servers that do not start, as arms of a benchmark."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def test_a_server_that_does_not_start_is_a_missing_arm(script: Callable[[str], ModuleType], tmp_path: Path) -> None:
    servers, attempted = script("servers"), script("peers").attempted
    failed: dict[str, str] = {}
    breaks = "raise ImportError('no kernel')"
    for command in ([sys.executable, "-c", breaks], ["no-such-server"]):
        with attempted(command[-1], failed), servers.running(command, servers.free_port(), {}, tmp_path / "log"):
            pytest.fail("it runs")
    assert set(failed) == {breaks, "no-such-server"} and "no kernel" in failed[breaks]
