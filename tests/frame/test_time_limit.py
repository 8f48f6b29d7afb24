"""A time limit ends everything: children that ignore signals, code that catches all errors, native code that hangs."""

import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from llmops.frame import time_limit
from llmops.frame.errors import TimeLimitError
from llmops.frame.time_limit import limit_time
from tests.clock import FakeClock, wait_until

# ignores SIGTERM, and so does its own child, which is in a session of its own
STUBBORN = """
import os, signal, subprocess, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
code = "import os, signal, sys; open(sys.argv[1] + '.child', 'w').write(f'{os.getpid()}.'); signal.pause()"
subprocess.Popen([sys.executable, "-c", code, sys.argv[1]], start_new_session=True)
open(sys.argv[1], "w").write(f"{os.getpid()}.")
signal.pause()
"""


def start_stubborn_children(ready: Path) -> list[psutil.Process]:
    """A child and its child, once both ignore SIGTERM."""
    subprocess.Popen([sys.executable, "-c", STUBBORN, str(ready)])
    return [psutil.Process(pid) for pid in wait_for_pids(ready)]


def wait_for_pids(ready: Path) -> list[int]:
    files = [ready, ready.with_name(f"{ready.name}.child")]
    wait_until(lambda: all(file.is_file() and file.read_text().endswith(".") for file in files), "the family")
    return [int(file.read_text()[:-1]) for file in files]


def has_ended(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


HANGING = """
import ctypes, subprocess, sys
from llmops.frame import time_limit
time_limit.GRACE_S = 0.5
child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
print(child.pid, flush=True)
with time_limit.limit_time("The stage train", 2):
    mutex, lock = ctypes.create_string_buffer(64), ctypes.PyDLL(None).pthread_mutex_lock
    lock(mutex), lock(mutex)  # a deadlock, as two libraries of threads make one
"""


def test_native_code_that_never_returns_is_killed_with_its_children() -> None:
    done = subprocess.run([sys.executable, "-c", HANGING], capture_output=True, text=True, timeout=50)
    assert done.returncode == -signal.SIGKILL and "The stage train hangs" in done.stderr
    assert not psutil.pid_exists(child := int(done.stdout)) or has_ended(psutil.Process(child))


@pytest.mark.timeout(0)  # that limit is an alarm, too
def test_what_ends_in_time_goes_on_undisturbed() -> None:
    old = signal.getsignal(signal.SIGALRM)
    with limit_time("It", 600):
        value = 1
    assert value == 1 and signal.getsignal(signal.SIGALRM) is old and signal.getitimer(signal.ITIMER_REAL) == (0, 0)
    assert all("llmops.frame.time_limit" not in child.cmdline() for child in list_children())
    before = {child.pid for child in list_children()}
    with limit_time("It", 0):  # none
        assert {child.pid for child in list_children()} <= before


def list_children() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if not has_ended(child)]


def test_children_that_ignore_sigterm_end_with_the_block_and_nobody_else(tmp_path: Path) -> None:
    bystander = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    family: list[psutil.Process] = []
    try:
        with pytest.raises(TimeLimitError, match="stage clean.*schedule.timeouts"), limit_time("The stage clean", 600):
            family = start_stubborn_children(tmp_path / "ready")
            signal.raise_signal(signal.SIGALRM)  # the time is over
            signal.pause()
        assert len(family) == 2 and all(has_ended(member) for member in family)
        assert bystander.poll() is None  # what ran before is not the block's
    finally:
        bystander.kill()
        bystander.wait()


def test_an_error_of_what_is_torn_down_does_not_hide_that_the_time_is_over() -> None:
    """Spark's own stop fails once its JVM was killed."""
    with pytest.raises(TimeLimitError, match="stage clean") as caught, limit_time("The stage clean", 600):
        try:
            signal.raise_signal(signal.SIGALRM)
        finally:
            raise ConnectionRefusedError("no JVM")
    assert isinstance(caught.value.__cause__, ConnectionRefusedError)
    with pytest.raises(ConnectionRefusedError), limit_time("The stage clean", 600):
        raise ConnectionRefusedError("no JVM")  # in time: its own


DAEMON = """
import os, subprocess, sys
subprocess.Popen([sys.executable, "-c", sys.argv[1], sys.argv[2]], start_new_session=True)
os._exit(0)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere init adopts it")
def test_a_daemon_whose_parent_has_ended_ends_with_the_block(tmp_path: Path) -> None:
    with pytest.raises(TimeLimitError), limit_time("It", 600):
        subprocess.run([sys.executable, "-c", DAEMON, STUBBORN, str(tmp_path / "ready")], check=True)
        family = [psutil.Process(pid) for pid in wait_for_pids(tmp_path / "ready")]
        signal.raise_signal(signal.SIGALRM)
        signal.pause()
    assert len(family) == 2 and all(has_ended(member) for member in family)


def test_code_that_tries_again_after_every_error_does_not_after_this_one() -> None:
    with pytest.raises(TimeLimitError), limit_time("It", 0.3):
        while True:
            try:
                signal.pause()
            except Exception:
                continue


@pytest.mark.timeout(0)  # that limit is an alarm, too
def test_an_alarm_that_somebody_else_has_set_comes_after_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, seen = FakeClock(), list[int]()
    monkeypatch.setattr(time_limit, "time", SimpleNamespace(monotonic=clock.monotonic))
    old = signal.signal(signal.SIGALRM, lambda number, frame: seen.append(number))
    try:
        signal.setitimer(signal.ITIMER_REAL, 6000, 60)
        with limit_time("It", 600):
            assert signal.getitimer(signal.ITIMER_REAL)[0] <= 600
            clock.advance(1000)
        left, repeat = signal.getitimer(signal.ITIMER_REAL)
        signal.raise_signal(signal.SIGALRM)
        assert 4000 < left <= 5000 and repeat == 60 and seen == [signal.SIGALRM]
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
