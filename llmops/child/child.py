"""A process of ours that answers lines of JSON, each with one: for work that must not be done beside who asks for it.

There it would hold the interpreter of all threads, or change how signals are handled, or take the asker with it when it
fails. This is the asker's end, `answer` the other.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from llmops import python_path
from llmops.errors import ChildFailed

START_S = 120.0  #: what the first answer of a process may take more: it loads first, on a machine that may be busy


class Child:
    """A process that runs a module; it ends with whoever started it. It is asked by one thread at a time.

    It is started when it is asked for the first time, and anew if it has ended since, as one does that was killed for
    its memory, until it is closed; any thread may do that.

    Args:
        module: its name; run as a program, it calls `answer.answer_lines`.
        arguments: of the program.
        environ: variables of the environment, besides those of this process.
        most_s: an answer that takes longer, in seconds, does not come any more; see `START_S` for the first.
    """

    def __init__(
        self, module: str, arguments: Sequence[str] = (), environ: Mapping[str, str] | None = None, most_s: float = 30.0
    ) -> None:
        self._module, self._arguments, self._environ = module, [*arguments], {**(environ or {})}
        self._most_s, self._closed, self._lock = most_s, False, threading.Lock()
        self.process: subprocess.Popen[bytes] | None = None  #: while it runs

    def ask(self, asked: object) -> Any:
        """Its answer.

        Raises:
            ChildFailed: if the process ends, for the second time, or takes too long, or is closed.
        """
        begun = time.monotonic()
        for again in (True, False):
            try:
                return self._exchange(asked)
            except (OSError, ValueError) as error:
                self._end()
                if not again or time.monotonic() >= begun + self._most_s:
                    raise ChildFailed(f"The process of {self._module} ended or hung.") from error
        raise AssertionError

    def close(self) -> None:
        """End the process, and let who waits for its answer know; it is not started any more."""
        with self._lock:
            self._closed = True
        self._end()

    def _end(self) -> None:
        with self._lock:
            process, self.process = self.process, None
        if process:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):  # what it has not read is written on closing
                    if pipe:
                        pipe.close()

    def _exchange(self, asked: object) -> Any:
        with self._lock:
            if self._closed:
                raise ChildFailed(f"The process of {self._module} is closed.")
            most_s = self._most_s + (START_S if self.process is None else 0.0)
            process = self.process = self.process or start(self._module, self._arguments, self._environ)
        timer = threading.Timer(most_s, process.kill)
        timer.start()
        try:
            assert process.stdin and process.stdout
            process.stdin.write(json.dumps(asked).encode() + b"\n")
            process.stdin.flush()
            return json.loads(process.stdout.readline())
        finally:
            timer.cancel()


def start(module: str, arguments: Sequence[str], environ: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
    """Start a process that runs a module, with pipes to its input and from its output.

    Args:
        module: its name.
        arguments: of the program.
        environ: variables of the environment, besides those of this process.
    """
    command, pipe = [sys.executable, "-m", module, *arguments], subprocess.PIPE
    given = {**os.environ, "PYTHONPATH": python_path(), **(environ or {})}
    # in a group of its own: what tells the app to stop, Ctrl-C say, must not stop what it still answers with
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, env=given, start_new_session=True)
