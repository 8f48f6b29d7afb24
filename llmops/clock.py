"""The clock that code goes by: a parameter, so that a test can hand over one that it moves by hand."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime


@dataclass(frozen=True)
class Clock:
    """Today's date, elapsed time and waiting. Functions take one with `SYSTEM_CLOCK` as its default.

    Attributes:
        now: the current time, with time zone UTC.
        monotonic: seconds since an arbitrary moment; never goes back.
        sleep: wait that many seconds.
    """

    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


SYSTEM_CLOCK = Clock()
