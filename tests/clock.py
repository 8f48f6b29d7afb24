"""A clock that tests move by hand, and a wait for a state with a limit that only a hang reaches."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from llmops.frame.clock import Clock

T = TypeVar("T")


class FakeClock(Clock):
    """A clock that stands still until `advance` or `sleep` moves it; see `llmops.frame.clock.Clock`."""

    def __init__(self, start: datetime = datetime(2026, 1, 31, 12, tzinfo=UTC)) -> None:
        self.time, self.seconds = start, 1000.0
        super().__init__(now=lambda: self.time, monotonic=lambda: self.seconds, sleep=self.advance)

    def __setattr__(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)  # its base is frozen

    def advance(self, seconds: float) -> None:
        self.time += timedelta(seconds=seconds)
        self.seconds += seconds


def wait_until(state: Callable[[], T], what: str = "the state that is waited for", limit_s: float = 50) -> T:
    """Ask `state` every few milliseconds until it is true; give its value, or fail after `limit_s`."""
    end = time.monotonic() + limit_s
    while not (value := state()):
        assert time.monotonic() < end, f"{what} did not come within {limit_s} s"
        time.sleep(0.01)
    return value
