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


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ([sys.executable, "-c", "raise ImportError('no kernel for this processor')"], "no kernel for this processor"),
        (["no-such-server"], "no-such-server"),
    ],
)
def test_a_server_that_does_not_start_is_a_missing_arm(
    command: list[str], reason: str, script: Callable[[str], ModuleType], tmp_path: Path
) -> None:
    servers, attempted = script("servers"), script("peers").attempted
    failed: dict[str, str] = {}
    for arm in ("theirs", "ours"):
        with attempted(arm, failed):
            if arm == "theirs":
                with servers.running(command, servers.free_port(), {}, tmp_path / "log"):
                    pytest.fail("it runs")
    assert set(failed) == {"theirs"} and reason in failed["theirs"]
