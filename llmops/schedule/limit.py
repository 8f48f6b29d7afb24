"""A time limit that ends what it limits, whatever that does: it may hang in native code and have children that stay.

When the time is over, the processes that were started meanwhile are killed and the main thread is interrupted, wherever
Python runs in it. What hangs in native code sees no interruption; a watcher, a process of its own, then kills this
process and its descendants. Airflow's `execution_timeout` does the first half only, and leaves children behind.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

import psutil

from llmops import python_path
from llmops.errors import TimeLimitError

GRACE_S = 30.0  #: how long the interruption may take to reach the end of the block before the watcher kills
AGAIN_S = 10.0  #: an interruption that code swallows with `except BaseException` comes again

_SET_CHILD_SUBREAPER = 36  #: prctl(2)


class _TimeIsUp(BaseException):
    """Not an `Exception`, so that code that tries again after any error does not try again after this one."""


@contextmanager
def time_limit(what: str, seconds: float) -> Iterator[None]:
    """Let the block take `seconds`; 0: as long as it likes.

    Outside the main thread nothing can be interrupted: there only the watcher ends the block, with the process.

    Raises:
        TimeLimitError: if it takes longer, and none of the processes that it started is left.
    """
    if not seconds:
        yield
        return
    _adopt_orphans(True)
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    watcher = subprocess.Popen(
        [sys.executable, "-m", __name__, str(os.getpid()), str(seconds + GRACE_S), what],
        env={**os.environ, "PYTHONPATH": python_path()},
        stdin=subprocess.PIPE,
        start_new_session=True,  # what signals our group must not end it
    )
    before.add(watcher.pid)

    late = False

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal late
        late = True
        _kill_children(before)
        raise _TimeIsUp

    try:
        with _alarm(seconds, interrupt):
            yield
    except BaseException as error:  # once interrupted, what is torn down may raise anything
        if not late:
            raise
        _kill_children(before)
        reason = None if isinstance(error, _TimeIsUp) else error
        raise TimeLimitError(f"{what} has not ended within {seconds / 60:g} min (schedule.timeouts).") from reason
    finally:
        _adopt_orphans(False)
        watcher.kill()
        watcher.communicate()


@contextmanager
def _alarm(seconds: float, handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    old = signal.signal(signal.SIGALRM, handler)
    left, again = signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN_S)
    began = time.monotonic()
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
        if left:  # somebody else's alarm goes on
            signal.setitimer(signal.ITIMER_REAL, max(left - (time.monotonic() - began), 0.001), again)


def _adopt_orphans(on: bool) -> None:
    """Let this process, in place of init, be the parent of descendants whose own has ended: so they are found."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, int(on), 0, 0, 0)


def _kill_children(but: set[int]) -> None:
    """Kill the descendants of this process, except those in `but`; they get no chance to refuse."""
    started = [child for child in psutil.Process().children(recursive=True) if child.pid not in but]
    for child in started:
        with suppress(psutil.NoSuchProcess):
            child.kill()
    psutil.wait_procs(started, timeout=AGAIN_S / 2)  # the next interruption must not come into this one


def _watch(pid: int, seconds: float, what: str) -> None:
    """After `seconds` kill the process `pid` and its descendants, but not this one; end at once if it is gone."""
    process = psutil.Process(pid)
    if select.select([sys.stdin], [], [], seconds)[0]:
        return  # nobody holds the other end any more
    with suppress(psutil.NoSuchProcess):
        family = [process, *process.children(recursive=True)]
        sys.stderr.write(f"{what} hangs and does not let itself be interrupted; killing its processes.\n")
        for member in family:
            if member.pid != os.getpid():
                with suppress(psutil.NoSuchProcess):
                    member.kill()


if __name__ == "__main__":
    _watch(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3])
