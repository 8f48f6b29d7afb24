"""Worker processes that read files, each file within limits of time and memory.

A file may be made so that its reader, or a library behind it, takes hours or gigabytes, or crashes. In native code only
the end of the process stops that. So every file is read in a worker; one that exceeds a limit is killed, and only its
file is lost. A worker starts when it is needed, and reads file after file.

A worker is `python -m llmops.data.collect.workers`, which gets pickled calls on its standard input and answers on its
standard output. So no process with threads is forked, and the caller's main module is not run again, as the standard
library's pools would do in an Airflow task or a script. The caller logs what libraries print, with its control
characters escaped.
"""

import logging
import logging.handlers
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing.connection import wait
from typing import IO, Any, Self, TypeVar

import psutil

from llmops.frame.errors import SourceUnavailableError
from llmops.frame.printable import escape_controls

T = TypeVar("T")
Records = Sequence[logging.LogRecord]

#: Signals of a process that a library has crashed, as on a damaged file. All others come from the machine or a person.
CRASHES = {signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL}
WATCH_S = 0.05  #: seconds between two looks at a worker's memory; an allocation may go beyond the limit for so long
LARGEST_LINE = 10_000  #: bytes of a worker's standard error that are logged at a time

log = logging.getLogger(__name__)


class LimitExceededError(Exception):
    """A call has exceeded its time or memory. The message says which."""


class ReaderCrashedError(Exception):
    """A call has crashed its process in native code. The message says how."""


class _MemoryExceededError(Exception):
    """A worker, which may have kept memory of earlier calls, has exceeded the limit of memory."""


class Workers:
    """Worker processes, as a context (`with`) that ends them. Threads may share it: each call has its own process."""

    def __init__(self, memory: int, shared: object = None) -> None:
        """Start nothing yet.

        Args:
            memory: most bytes of one process.
            shared: picklable argument of every call, which each process gets once.
        """
        self.memory = memory
        self.shared = shared
        self._started: list[subprocess.Popen[bytes]] = []
        self._idle: list[subprocess.Popen[bytes]] = []
        self._loggers: list[threading.Thread] = []
        self._is_stopped = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def call(self, name: str, function: Callable[[Any], T], seconds: float) -> tuple[T, Records]:
        """Return the result of the picklable `function` on the shared object, and its log records.

        Raises:
            LimitExceededError: if it takes more than `seconds`, or more memory than allowed in a fresh process.
            ReaderCrashedError: if it crashes a fresh process.
            SourceUnavailableError: if the process was killed, naming the call.
            Exception: the function's own.
        """
        while True:
            try:
                worker, is_fresh = self._idle.pop(), False
            except IndexError:
                worker, is_fresh = self._start_worker(), True
            try:
                succeeded, value, records = self._exchange(worker, function, seconds)
            except _MemoryExceededError:
                if is_fresh:
                    raise LimitExceededError(
                        f"reading it takes more than {self.memory >> 20:,} MiB of memory; if it is sound, raise "
                        "`collect.file_memory_mb`, or split it"
                    ) from None
            except (EOFError, OSError, pickle.UnpicklingError):
                status = worker.wait()
                if is_fresh or -status not in CRASHES:  # an earlier file may have damaged a process's memory
                    raise _explain_end(name, status, seconds) from None
            else:
                self._idle.append(worker)
                if succeeded:
                    return value, records
                replay(records)
                raise value

    def stop(self) -> None:
        """End all workers, at once and for ever. Calls that are under way in other threads fail."""
        self._is_stopped = True
        for worker in self._started:
            worker.kill()
        for worker in self._started:
            worker.wait()
            for pipe in filter(None, (worker.stdin, worker.stdout)):
                try:
                    pipe.close()
                except OSError:  # a broken pipe with unwritten data
                    log.debug("a worker left something unread")
        for thread in self._loggers:
            thread.join(10)  # a process that a library has started may keep the stream open

    def _start_worker(self) -> subprocess.Popen[bytes]:
        if self._is_stopped:
            raise SourceUnavailableError("Reading was interrupted; run again.")
        environ = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        pipe = subprocess.PIPE
        worker = subprocess.Popen([sys.executable, "-m", __name__], stdin=pipe, stdout=pipe, stderr=pipe, env=environ)
        self._started.append(worker)
        assert worker.stdin and worker.stderr
        self._loggers.append(threading.Thread(target=_log_lines, args=(worker.stderr,), daemon=True))
        self._loggers[-1].start()
        pickle.dump(self.shared, worker.stdin)
        return worker

    def _exchange(self, worker: subprocess.Popen[bytes], function: object, seconds: float) -> tuple[bool, Any, Records]:
        assert worker.stdin and worker.stdout
        pickle.dump((function, seconds), worker.stdin)
        worker.stdin.flush()
        while not wait([worker.stdout.fileno()], WATCH_S):
            if measure_memory(worker.pid) > self.memory:
                worker.kill()
                worker.wait()
                raise _MemoryExceededError
        answer: tuple[bool, Any, Records] = pickle.load(worker.stdout)
        return answer


def measure_memory(process: int) -> int:
    """Return the bytes of memory that a process has filled itself; 0 if it has ended.

    Reserved addresses do not count, as Arrow's allocator has many. Mapped files do not count either, on Linux.
    """
    try:
        info = psutil.Process(process).memory_info()
    except psutil.Error:
        return 0
    return int(info.rss - getattr(info, "shared", 0))


def replay(records: Records) -> None:
    """Log records of a worker in this process."""
    for record in records:
        logging.getLogger(record.name).handle(record)


def _log_lines(stream: IO[bytes]) -> None:
    """Log what libraries print, which may hold names and text of the files."""
    with stream:
        for line in iter(partial(stream.readline, LARGEST_LINE), b""):
            log.warning("a library prints: %s", escape_controls(line.decode(errors="replace").rstrip()))


def _explain_end(name: str, status: int, seconds: float) -> Exception:
    if status == -signal.SIGALRM:
        return LimitExceededError(
            f"reading it takes more than {seconds:g} s; if it is sound, raise `collect.file_timeout_s`, or split it"
        )
    cause = signal.Signals(-status).name if status < 0 else f"exit status {status}"
    if -status in CRASHES:
        return ReaderCrashedError(f"it crashes the library that reads it ({cause}); save it anew")
    cause += ", as when memory runs out" if -status == signal.SIGKILL else ""
    return SourceUnavailableError(
        f"The process that was reading {name} ended with {cause}. Give this machine or container "
        "more memory, or split the file, and run again; what was read is kept."
    )


class _Logger(logging.Logger):
    def addHandler(self, hdlr: logging.Handler) -> None:  # noqa: N802 -- the name is logging's
        """Add none: a library's own handler would print what the caller logs."""


def _serve_calls() -> None:
    calls, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # output of libraries must not mix with answers
    records: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
    logging.getLogger().addHandler(logging.handlers.QueueHandler(records))
    logging.setLoggerClass(_Logger)
    logging.captureWarnings(True)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the caller ends its workers itself
    shared = pickle.load(calls)
    while True:
        try:
            function, seconds = pickle.load(calls)
        except EOFError:
            return
        # The alarm ends the process even in native code, and when nobody is left who could.
        signal.setitimer(signal.ITIMER_REAL, seconds)
        succeeded, value = True, None
        try:
            value = function(shared)
        except Exception as error:
            succeeded, value = False, error
        signal.setitimer(signal.ITIMER_REAL, 0)
        logged = []
        while not records.empty():
            logged.append(records.get())
        pickle.dump((succeeded, value, logged), answers)
        answers.flush()


if __name__ == "__main__":
    _serve_calls()
