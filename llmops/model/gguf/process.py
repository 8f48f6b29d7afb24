"""The other end of `worker`: starts the process that runs a GGUF file, asks it, and hears what it says."""

import contextlib
import json
import os
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
import weakref
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from llmops import python_path
from llmops.errors import ArtifactError
from llmops.model.gguf import worker
from llmops.model.gguf.worker import FILE, Said

NO_ROOM = re.compile(r"bad_alloc|MemoryError|[Cc]annot allocate|allocate.* memory|out of memory")


class Worker:
    """A process with the pipeline of one servable folder; it ends with this, or with whoever started it.

    Args:
        folder: with the GGUF file.
        settings: arguments of `worker.open_pipeline`.

    Raises:
        ArtifactError: if OpenVINO cannot read the model.
        MemoryError: if there is no room for it.
    """

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.file, self._names = folder / FILE, count()
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-m", worker.__name__, str(theirs.fileno()), str(folder), json.dumps(settings)]
        self.process = subprocess.Popen(
            command,
            pass_fds=[theirs.fileno()],
            env={**os.environ, "PYTHONPATH": python_path()},
            start_new_session=True,  # Ctrl-C tells the app to stop, which then answers what it has taken
        )
        theirs.close()
        self._pipe, self._end = Connection(ours.detach()), weakref.finalize(self, self.process.kill)
        self._heard = queue.SimpleQueue[Any]()  # None: it has ended
        threading.Thread(target=_listen, args=(self._pipe, self._heard), name="model", daemon=True).start()
        if why := self._next():
            raise self.reason(why)

    def ask(self, ids: Sequence[int], ends: Iterable[int], settings: Mapping[str, Any]) -> int:
        """Begin a request, and return its name. `ends` are the tokens that end its answer.

        The settings are further arguments of `openvino_genai.GenerationConfig`.
        """
        name = next(self._names)
        self._tell(name, [*ids], {**settings, "stop_token_ids": set(ends)})
        return name

    def leave(self, name: int) -> None:
        """Take a request back; of what was said before, some may still be heard."""
        self._tell(name, None, {})

    def hear(self) -> list[tuple[int, Said]]:
        """Return what the next steps have brought, at least one, in order, each with the name of its request.

        Raises:
            ArtifactError: if the process has ended.
            MemoryError: if it was killed, as on a machine without room.
        """
        said: list[dict[int, Said]] = [self._next()]
        while not self._heard.empty() and (more := self._next()):
            said.append(more)
        return [item for step in said for item in step.items()]

    def close(self) -> None:
        """End it: it has nothing to keep."""
        self._end()
        self.process.wait()

    def reason(self, why: str) -> ArtifactError | MemoryError:
        """Return the error to raise for what OpenVINO says."""
        if self.process.poll() == -signal.SIGKILL or NO_ROOM.search(why):
            return MemoryError(f"{self.file}: {why}")
        return ArtifactError(f"OpenVINO cannot run {self.file}: {why}. It is damaged, or there is no room.")

    def _tell(self, *asked: object) -> None:
        with contextlib.suppress(OSError):  # it has ended, as `hear` tells
            self._pipe.send(asked)

    def _next(self) -> Any:
        if (said := self._heard.get()) is None:
            self._heard.put(None)
            raise self.reason(f"its process ended with {self.process.wait()}")
        return said


def run_requests(
    model: Worker, requests: Sequence[Sequence[int]], settings: Mapping[str, Any], batch: int, ends: Iterable[int] = ()
) -> list[tuple[list[int], list[float]]]:
    """Answer requests, `batch` of them at a time, with a model that nobody else asks.

    `settings` are arguments of `openvino_genai.GenerationConfig`, and `ends` the tokens that end an answer.

    Returns:
        The token ids of each answer, what ended it included, and their log-probabilities if `settings` ask for them,
        in the requests' order.

    Raises:
        ArtifactError: if OpenVINO does not take a request, or its process ends.
        MemoryError: if there is no room for the keys and values of a request.
    """
    waiting, running = deque(enumerate(requests)), dict[int, int]()
    found: list[tuple[list[int], list[float]]] = [([], []) for _ in requests]
    while waiting or running:
        while waiting and len(running) < batch:
            number, ids = waiting.popleft()
            running[model.ask(ids, ends, settings)] = number
        for name, said in model.hear():
            if said.why:
                raise model.reason(said.why)
            answer, logs = found[running[name]]
            answer += said.ids
            logs += said.logs
            if said.ended:
                del running[name]
    return found


def _listen(pipe: Connection, heard: queue.SimpleQueue[Any]) -> None:
    """Read all that a process says: one that waits to be read could not read what it is told."""
    try:
        while True:
            heard.put(pipe.recv())
    except (EOFError, OSError):
        heard.put(None)
