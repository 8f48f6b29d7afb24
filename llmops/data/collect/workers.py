"""Worker processes that read files. The result is the same as that of one process.

A worker is `python -m llmops.data.collect.workers`, which gets pickled calls on its standard input and answers on its
standard output. So no process with threads is forked, and the caller's main module is not run again, as the standard
library's pools would do in an Airflow task or a script.
"""

import logging
import logging.handlers
import os
import pickle
import queue
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from llmops.frame.errors import SourceUnavailableError

log = logging.getLogger(__name__)

T = TypeVar("T")
Call = tuple[str, Callable[[], T]]  #: name of the file, and a picklable function


def run_in_processes(calls: Sequence[Call[T]], processes: int) -> list[T]:
    """Return the results of the calls, in order. Their log records are logged here, in the same order.

    Raises:
        Exception: the first one, in the order of the calls.
        SourceUnavailableError: if a process was killed, naming its file.
    """
    waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in range(len(calls)):
        waiting.put(number)
    answers: dict[int, tuple[bool, Any, list[logging.LogRecord]]] = {}
    workers = [_start_worker() for _ in range(min(processes, len(calls)))]

    def drive_worker(worker: subprocess.Popen[bytes]) -> None:
        while not any(not succeeded for succeeded, *_ in list(answers.values())):
            try:
                number = waiting.get_nowait()
            except queue.Empty:
                return
            answers[number] = _run_call(worker, calls[number])

    try:
        with ThreadPoolExecutor(len(workers)) as pool:
            try:
                list(pool.map(drive_worker, workers))
            except BaseException:  # including interruptions and time limits: the threads wait for the killed workers
                _stop_workers(workers)
                raise
    finally:
        _stop_workers(workers)
    results: list[T] = []
    for number in sorted(answers):
        succeeded, value, records = answers[number]
        for record in records:
            logging.getLogger(record.name).handle(record)
        if not succeeded:
            raise value
        results.append(value)
    return results


def _start_worker() -> subprocess.Popen[bytes]:
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.Popen(
        [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environ
    )


def _run_call(worker: subprocess.Popen[bytes], call: Call[Any]) -> tuple[bool, Any, list[logging.LogRecord]]:
    assert worker.stdin and worker.stdout
    file_name, function = call
    try:
        pickle.dump(function, worker.stdin)
        worker.stdin.flush()
        answer: tuple[bool, Any, list[logging.LogRecord]] = pickle.load(worker.stdout)
        return answer
    except (EOFError, OSError, pickle.UnpicklingError):
        status = worker.wait()
        cause = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        cause += ", as when memory runs out" if -status == signal.SIGKILL else ""
        return False, SourceUnavailableError(
            f"The process that was reading {file_name} ended with {cause}. Give this machine or container "
            "more memory, or split the file, and run again; what was read is kept."
        ), []  # fmt: skip


def _stop_workers(workers: Sequence[subprocess.Popen[bytes]]) -> None:
    for worker in workers:
        worker.kill()
    for worker in workers:
        worker.wait()
        for pipe in filter(None, (worker.stdin, worker.stdout)):
            try:
                pipe.close()
            except OSError:  # a broken pipe with unwritten data
                log.debug("a worker left something unread")


def _serve_calls() -> None:
    calls, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # output of libraries must not mix with answers
    records: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
    logging.getLogger().addHandler(logging.handlers.QueueHandler(records))
    while True:
        try:
            function = pickle.load(calls)
        except EOFError:
            return
        succeeded, value = True, None
        try:
            value = function()
        except Exception as error:
            succeeded, value = False, error
        logged = []
        while not records.empty():
            logged.append(records.get())
        pickle.dump((succeeded, value, logged), answers)
        answers.flush()


if __name__ == "__main__":
    _serve_calls()
