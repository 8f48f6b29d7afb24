"""A time limit that always ends its block, even if the block hangs in native code or leaves children running.

When the time is over, all processes started meanwhile are killed and the main thread is interrupted in Python code.
Native code ignores the interruption, so a separate watcher process then kills this process and its descendants.
Airflow's `execution_timeout` only interrupts and leaves children running.
"""

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
from llmops.frame.errors import TimeLimitError

GRACE_S = 30.0  #: time for the interruption to end the block, before the watcher kills
REPEAT_S = 10.0  #: pause between interruptions, if code swallows one with `except BaseException`

_SET_CHILD_SUBREAPER = 36  #: prctl(2)


class _TimeLimitReached(BaseException):
    """The interruption. It is not an `Exception`, so that code that retries after an error does not catch it."""


@contextmanager
def limit_time(name: str, seconds: float) -> Iterator[None]:
    """Limit the block to `seconds`; 0: no limit. `name` is the block's name in messages.

    Outside the main thread nothing can be interrupted. There the watcher ends the whole process.

    Raises:
        TimeLimitError: if it takes longer. All processes that it started were killed.
    """
    if not seconds:
        yield
        return
    _adopt_orphans(True)
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    watcher = subprocess.Popen(
        [sys.executable, "-m", __name__, str(os.getpid()), str(seconds + GRACE_S), name],
        env={**os.environ, "PYTHONPATH": python_path()},
        stdin=subprocess.PIPE,
        start_new_session=True,  # a signal to our process group must not end it
    )
    before.add(watcher.pid)

    late = False

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal late
        late = True
        _kill_children(before)
        raise _TimeLimitReached

    try:
        with _set_alarm(seconds, interrupt):
            yield
    except BaseException as error:  # after the interruption, cleanup may raise anything
        if not late:
            raise
        _kill_children(before)
        reason = None if isinstance(error, _TimeLimitReached) else error
        raise TimeLimitError(f"{name} has not ended within {seconds / 60:g} min (schedule.timeouts).") from reason
    finally:
        _adopt_orphans(False)
        watcher.kill()
        watcher.communicate()


@contextmanager
def _set_alarm(seconds: float, handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    old = signal.signal(signal.SIGALRM, handler)
    left, repeat = signal.setitimer(signal.ITIMER_REAL, seconds, REPEAT_S)
    began = time.monotonic()
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
        if left:  # restore somebody else's alarm
            signal.setitimer(signal.ITIMER_REAL, max(left - (time.monotonic() - began), 0.001), repeat)


def _adopt_orphans(on: bool) -> None:
    """Make this process the parent of orphaned descendants in place of init, so that they can be found."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, int(on), 0, 0, 0)


def _kill_children(spared: set[int]) -> None:
    started = [child for child in psutil.Process().children(recursive=True) if child.pid not in spared]
    for child in started:
        with suppress(psutil.NoSuchProcess):
            child.kill()
    psutil.wait_procs(started, timeout=REPEAT_S / 2)  # ends before the next interruption


def _watch(pid: int, seconds: float, name: str) -> None:
    """Kill the process `pid` and its descendants after `seconds`, but not this one. End at once if `pid` is gone."""
    process = psutil.Process(pid)
    if select.select([sys.stdin], [], [], seconds)[0]:
        return  # the watched process has closed the pipe
    with suppress(psutil.NoSuchProcess):
        family = [process, *process.children(recursive=True)]
        sys.stderr.write(f"{name} hangs and cannot be interrupted; killing its processes.\n")
        for member in family:
            if member.pid != os.getpid():
                with suppress(psutil.NoSuchProcess):
                    member.kill()


if __name__ == "__main__":
    _watch(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3])
