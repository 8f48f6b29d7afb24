"""The other end of `worker`: starts the process that owns a pipeline, asks it, and hears what it says."""

from __future__ import annotations

import contextlib
import json
import queue
import re
import signal
import subprocess
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import IO, Any

from llmops.child.child import start
from llmops.errors import ArtifactError
from llmops.model.gguf import worker as program  # imported, its code counts as that of who asks it
from llmops.model.gguf.pipeline import FILE, Said

Lines = queue.SimpleQueue[dict[str, Any] | None]

LOAD_S = 1800.0  #: a worker that takes longer to load hangs
SILENT_S = 120.0  #: a worker that says nothing for so long, though it has work, hangs; the longest step takes 1 s
LEAVE_S = 10.0  #: then a worker that was told to end is killed
NO_ROOM = re.compile(r"bad_alloc|MemoryError|[Cc]annot allocate|allocate.* memory|out of memory")


class Worker:
    """A process with the pipeline of one servable folder; it ends with whoever started it.

    Args:
        folder: with the GGUF file.
        settings: arguments of `pipeline.open_pipeline`.
    """

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.file, self._names = folder / FILE, count()
        self._said, self._told = Lines(), queue.SimpleQueue[bytes | None]()  # None: it has ended; it is to end
        self.process = start(program.__name__, [str(folder), json.dumps(settings)])
        for use, end, lines in (
            (_listen, self.process.stdout, self._said),
            (_speak, self.process.stdin, self._told),
        ):
            threading.Thread(target=use, args=(end, lines), name="pipe of a model", daemon=True).start()
        self._end = weakref.finalize(self, self._told.put, None)

    def wait_loaded(self, given_up: Callable[[], bool] = lambda: False) -> None:
        """Wait until it has loaded the model.

        Args:
            given_up: whether nobody waits any more; asked several times a second.

        Raises:
            ArtifactError: if OpenVINO cannot read the model.
            MemoryError: if there is no room for it.
            TimeoutError: if nobody waits any more, or the worker hangs.
        """
        until = time.monotonic() + LOAD_S
        while True:
            try:
                (said,) = self._lines(0.2)
                break
            except TimeoutError:
                if given_up() or time.monotonic() > until:
                    self.process.kill()
                    raise
        if why := said.get("error"):
            raise self.reason(why)

    def ask(self, ids: Sequence[int], ends: Iterable[int], settings: Mapping[str, Any], schema: str = "") -> int:
        """Begin a request.

        Args:
            ids: token ids of its prompt.
            ends: tokens that end its answer.
            settings: arguments of `openvino_genai.GenerationConfig`.
            schema: that the answer follows, as JSON; one that OpenVINO does not take ends the request with a
                `SchemaRefused`.

        Returns:
            Its name.
        """
        name = next(self._names)
        asked = {"ids": [*ids], "ends": sorted(ends), "settings": {**settings}, "schema": schema}
        self._tell({"id": name, **asked})
        return name

    def leave(self, name: int) -> None:
        """Take a request back; of what was said before, some may still be heard."""
        self._tell({"id": name})

    def hear(self, within: float) -> list[tuple[int, Said]]:
        """What it has said since, in order, each with the name of the request.

        Args:
            within: seconds. A worker that has work says something after each step, if only that nothing is new.

        Raises:
            ArtifactError: if the process has ended.
            MemoryError: if it was killed, as a machine without room does.
            TimeoutError: if it said nothing.
        """
        return [(int(name), Said(*said)) for line in self._lines(within) for name, said in line.items()]

    def _lines(self, within: float) -> list[dict[str, Any]]:
        try:
            lines = [self._said.get(timeout=within)]
        except queue.Empty:
            raise TimeoutError(f"the process that runs {self.file} said nothing for {within:.0f} s") from None
        while lines[-1] is not None and not self._said.empty():
            lines.append(self._said.get())
        heard = [line for line in lines if line is not None]
        if lines[-1] is None:
            self._said.put(None)
            if not heard:
                raise self.reason(f"its process ended with {self.process.wait()}")
        return heard

    def close(self) -> None:
        """End it, and wait until it has ended."""
        self._end()
        try:
            self.process.wait(LEAVE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def reason(self, why: str) -> ArtifactError | MemoryError:
        """The error to raise for what OpenVINO says."""
        if self.process.poll() == -signal.SIGKILL or NO_ROOM.search(why):
            return MemoryError(f"{self.file}: {why}")
        return ArtifactError(f"OpenVINO cannot run {self.file}: {why}. It is damaged, or there is no room.")

    def _tell(self, asked: Mapping[str, Any]) -> None:
        self._told.put(json.dumps(asked).encode() + b"\n")


def run_requests(
    worker: Worker,
    requests: Sequence[Sequence[int]],
    settings: Mapping[str, Any],
    batch: int,
    ends: Iterable[int] = (),
    ended: Callable[[list[int]], bool] = lambda ids: False,
) -> list[tuple[list[int], list[float]]]:
    """Answer requests, `batch` of them at a time.

    Args:
        worker: that has loaded the model, and that nobody else asks.
        requests: token ids of each prompt.
        settings: of every answer, arguments of `openvino_genai.GenerationConfig`.
        batch: when one has ended, the next one takes its place.
        ends: tokens that end an answer.
        ended: whether tokens so far are a whole answer, besides that.

    Returns:
        The token ids of each answer, what ended it included, and their log-probabilities if `settings` ask for them,
        in the requests' order.

    Raises:
        ArtifactError: if OpenVINO does not take a request, or its process ends.
        MemoryError: if there is no room for the keys and values of a request.
        TimeoutError: if the process hangs; it is killed.
    """
    waiting, running = deque(enumerate(requests)), dict[int, int]()
    found: list[tuple[list[int], list[float]]] = [([], []) for _ in requests]
    try:
        while waiting or running:
            while waiting and len(running) < batch:
                number, ids = waiting.popleft()
                running[worker.ask(ids, ends, settings)] = number
            for name, said in worker.hear(SILENT_S):
                if name not in running:
                    continue
                if said.why:
                    raise worker.reason(said.why)
                ids, logs = found[running[name]]
                ids += said.ids
                logs += said.logs
                if said.ended or ended(ids):
                    if not said.ended:
                        worker.leave(name)
                    del running[name]
    except TimeoutError:
        worker.process.kill()
        raise
    finally:
        for name in running:
            worker.leave(name)
    return found


def _speak(told: IO[bytes], lines: queue.SimpleQueue[bytes | None]) -> None:
    """Write all that the worker is told: one that hangs reads nothing, and must not hold up who asks."""
    with contextlib.suppress(OSError), told:
        while line := lines.get():
            told.write(line)
            told.flush()


def _listen(said: IO[bytes], lines: Lines) -> None:
    """Read all that the worker says: one that waits to be read could not read what it is told."""
    with said:
        for line in said:
            if line.endswith(b"\n"):  # else it died over it
                lines.put(json.loads(line))
    lines.put(None)
