"""The client of `worker`: starts the process that runs a GGUF file, sends it requests, and reads their tokens."""

import contextlib
import json
import logging
import os
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from llmops import python_path
from llmops.frame.errors import ArtifactError
from llmops.model.gguf import worker
from llmops.model.gguf.worker import GGUF_FILE, StepOutput

OUT_OF_MEMORY = re.compile(r"bad_alloc|MemoryError|[Cc]annot allocate|allocate.* memory|out of memory")
PROGRESS_S = 10.0  #: seconds between two lines of progress

log = logging.getLogger(__name__)


class Worker:
    """A process with the pipeline of one servable folder. It ends with this object, or with the process of this object.

    Args:
        folder: the folder with the GGUF file.
        settings: arguments of `worker.open_pipeline`.

    Raises:
        ArtifactError: if OpenVINO cannot read the model.
        MemoryError: if there is no room for it.
    """

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.file, self._request_ids = folder / GGUF_FILE, count()
        own_end, worker_end = socket.socketpair()
        command = [sys.executable, "-m", worker.__name__, str(worker_end.fileno()), str(folder), json.dumps(settings)]
        self.process = subprocess.Popen(
            command,
            pass_fds=[worker_end.fileno()],
            env={**os.environ, "PYTHONPATH": python_path()},
            start_new_session=True,  # Ctrl-C must not end it before the app has answered its accepted requests
        )
        worker_end.close()
        self._pipe, self._kill = Connection(own_end.detach()), weakref.finalize(self, self.process.kill)
        self._messages = queue.SimpleQueue[Any]()  # None: the process has ended
        threading.Thread(target=_read_messages, args=(self._pipe, self._messages), name="model", daemon=True).start()
        if error := self._read_message():
            raise self.make_error(error)

    def start_request(
        self, ids: Sequence[int], ends: Iterable[int], settings: Mapping[str, Any], schema: str = ""
    ) -> int:
        """Start a request, and return its id.

        Args:
            ids: the prompt.
            ends: the tokens that end the answer.
            settings: further arguments of `openvino_genai.GenerationConfig`.
            schema: the JSON schema that the answer follows. For one that cannot be compiled, the request's only output
                is an error that begins with `GrammarError`.
        """
        request_id = next(self._request_ids)
        self._send(request_id, [*ids], {**settings, "stop_token_ids": set(ends)}, schema)
        return request_id

    def cancel_request(self, request_id: int) -> None:
        """Cancel a request. `receive` may still return a few of its tokens."""
        self._send(request_id, None, {}, "")

    def receive(self) -> list[tuple[int, StepOutput]]:
        """Return the output of at least one step, in order, each with the id of its request.

        Raises:
            ArtifactError: if the process has ended.
            MemoryError: if the process was killed, as on a machine without room.
        """
        steps: list[dict[int, StepOutput]] = [self._read_message()]
        while not self._messages.empty() and (more := self._read_message()):
            steps.append(more)
        return [item for step in steps for item in step.items()]

    def close(self) -> None:
        """Kill the process; it has nothing to store."""
        self._kill()
        self.process.wait()

    def make_error(self, message: str) -> ArtifactError | MemoryError:
        """Return the error to raise for a message of OpenVINO."""
        if self.process.poll() == -signal.SIGKILL or OUT_OF_MEMORY.search(message):
            return MemoryError(f"{self.file}: {message}")
        return ArtifactError(f"OpenVINO cannot run {self.file}: {message}. It is damaged, or there is no room.")

    def _send(self, *message: object) -> None:
        with contextlib.suppress(OSError):  # the process has ended; `receive` raises
            self._pipe.send(message)

    def _read_message(self) -> Any:
        if (message := self._messages.get()) is None:
            self._messages.put(None)
            raise self.make_error(f"its process ended with {self.process.wait()}")
        return message


def run_requests(
    model: Worker, requests: Sequence[Sequence[int]], settings: Mapping[str, Any], batch: int, ends: Iterable[int] = ()
) -> list[tuple[list[int], list[float]]]:
    """Answer requests, `batch` of them at a time, with a worker that has no other requests. Log the progress.

    `settings` are arguments of `openvino_genai.GenerationConfig`, and `ends` the tokens that end an answer.

    Returns:
        In the requests' order, the token ids of each answer with the token that ended it, and their log-probabilities
        if `settings` ask for them.

    Raises:
        ArtifactError: if OpenVINO does not take a request, or its process ends.
        MemoryError: if there is no room for the keys and values of a request.
    """
    waiting, running = deque(enumerate(requests)), dict[int, int]()
    answers: list[tuple[list[int], list[float]]] = [([], []) for _ in requests]
    start = last = time.monotonic()
    while waiting or running:
        while waiting and len(running) < batch:
            number, ids = waiting.popleft()
            running[model.start_request(ids, ends, settings)] = number
        for request_id, output in model.receive():
            if output.error:
                raise model.make_error(output.error)
            answer, log_probs = answers[running[request_id]]
            answer += output.ids
            log_probs += output.log_probs
            if output.ended:
                del running[request_id]
        done, now = len(requests) - len(waiting) - len(running), time.monotonic()
        if done and now >= last + PROGRESS_S:
            last, left_s = now, (now - start) / done * (len(requests) - done)
            log.info("%d of %d texts done  %.0f s left", done, len(requests), left_s)
    return answers


def _read_messages(pipe: Connection, messages: queue.SimpleQueue[Any]) -> None:
    """Read all messages of the process at once; while its messages wait, it could not read its requests."""
    try:
        while True:
            messages.put(pipe.recv())
    except (EOFError, OSError):
        messages.put(None)
