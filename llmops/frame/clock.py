"""The clock as a parameter, so that a test can use one that it moves by hand."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime


@dataclass(frozen=True)
class Clock:
    """Current time, elapsed time and waiting. Functions take one with default `SYSTEM_CLOCK`.

    Attributes:
        now: returns the current time in UTC.
        monotonic: returns seconds since an arbitrary moment; never goes back.
        sleep: waits for that many seconds.
    """

    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


SYSTEM_CLOCK = Clock()
