"""The process that runs the GGUF file of a servable folder with OpenVINO GenAI, many requests in one batch.

    python -m llmops.model.gguf.worker DESCRIPTOR FOLDER '{"batch": 16, "tokens": 2048}'

`process.Worker` starts it, and asks it over a socket. It is a process of its own because a step of the pipeline holds
Python's lock for as long as it computes: another thread that wakes every millisecond waited for the whole of each
step, tenths of a second for the prompts of 16 requests. An app in the same process could not answer meanwhile. A
damaged file that crashes OpenVINO's reader ends only this process.

The message `(name, token ids, settings)` begins a request, `(name, None, {})` takes it back. The process's first
message is the reason why the model cannot be loaded, or empty. After each step it sends the news of the requests:
name → `Said`.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from math import ceil
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from llmops import machine

if TYPE_CHECKING:
    from openvino_genai import ContinuousBatchingPipeline, GenerationHandle

FILE = "model.gguf"  #: of a servable folder
BLOCK = 32  #: tokens whose keys and values are stored together

Precision = Literal["f32", "bf16"]

#: The precision of OpenVINO. With `f32` keys and values have 32 bits, too, and the input of a layer of 8-bit weights is
#: not rounded, so that other requests do not change an answer. `bf16` leaves that to OpenVINO.
PRECISIONS: dict[Precision, dict[str, Any]] = {
    "f32": {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0},
    "bf16": {"INFERENCE_PRECISION_HINT": "bf16"},
}


class Said(NamedTuple):
    """The news of a request after a step."""

    ids: list[int]  #: its new tokens
    logs: list[float]  #: their log-probabilities, if it asks for them
    ended: bool  #: True if they are the last
    why: str = ""  #: reason why it has ended without an answer


def is_gguf(folder: Path) -> bool:
    """Return whether the model of a folder is a GGUF file."""
    return (folder / FILE).is_file()


def open_pipeline(
    folder: Path,
    batch: int,
    tokens: int = 0,
    threads: int = 0,
    precision: Precision = "f32",
    share_prefixes: bool = True,
) -> ContinuousBatchingPipeline:
    """Load the GGUF file of a servable folder.

    Args:
        folder: the servable.
        batch: most requests in one step.
        tokens: most tokens of a request, prompt and answer together. The keys and values of `batch` times as many fit
            into memory. 0: memory grows as needed.
        threads: that compute; 0: see `machine.threads`.
        precision: see `PRECISIONS`.
        share_prefixes: do not read the beginning of a prompt again if an earlier prompt had it. That part has no
            log-probabilities.
    """
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # OpenVINO does without, and reports nothing
    import openvino_genai

    scheduler = openvino_genai.SchedulerConfig()
    scheduler.max_num_seqs = batch
    scheduler.num_kv_blocks = batch * ceil(tokens / BLOCK)
    scheduler.enable_prefix_caching = share_prefixes
    # Pinned, two pipelines side by side, as at a swap, would compute on the same cores while others are idle.
    properties = {
        **PRECISIONS[precision],
        "INFERENCE_NUM_THREADS": threads or machine.threads(),
        "ENABLE_CPU_PINNING": False,
    }
    with _writable(folder / FILE) as file:
        return openvino_genai.ContinuousBatchingPipeline(str(file), scheduler, "CPU", properties)


@contextlib.contextmanager
def _writable(file: Path) -> Iterator[Path]:
    """Yield a path of a file that OpenVINO can open. OpenVINO only reads, but opens files for writing too.

    A read-only file, as in an image, is copied to memory until it is loaded.
    """
    if os.access(file, os.W_OK):
        yield file
        return
    with os.fdopen(os.memfd_create(FILE), "wb") as copy, tempfile.TemporaryDirectory() as folder:
        with file.open("rb") as source:
            shutil.copyfileobj(source, copy, 1 << 20)
        copy.flush()
        link = Path(folder) / FILE  # the name of the file tells OpenVINO its kind
        link.symlink_to(f"/proc/self/fd/{copy.fileno()}")
        yield link


class Requests:
    """The requests of a pipeline, by their names."""

    def __init__(self, pipeline: ContinuousBatchingPipeline) -> None:
        self._pipeline, self._handles = pipeline, dict[int, Any]()
        self._refused: dict[int, Said] = {}
        self._cancelled = False  # since the last step, which frees the blocks of such a request

    @property
    def running(self) -> bool:
        """Return whether there is something to compute or to send."""
        return bool(self._handles or self._refused)

    def take(self, name: int, ids: Sequence[int] | None, settings: Mapping[str, Any]) -> None:
        """Begin a request, or take it back."""
        if ids is None:
            if handle := self._handles.pop(name, None):
                handle.cancel()
                self._cancelled = True
            return
        try:
            self._handles[name] = self._begin(name, ids, settings)
        except Exception as error:
            self._refused[name] = Said([], [], True, f"{type(error).__name__}: {error}")

    def step(self) -> dict[int, Said]:
        """Compute a step; return the news of each request."""
        found, self._refused = self._refused, {}
        if self._handles:
            self._compute()
        for name, handle in list(self._handles.items()):
            said = _read(handle)
            if said.ended:
                del self._handles[name]
            if said.ended or said.ids:
                found[name] = said
        return found

    def _begin(self, name: int, ids: Sequence[int], settings: Mapping[str, Any]) -> GenerationHandle:
        import numpy as np
        import openvino
        from openvino_genai import GenerationConfig

        if self._cancelled:
            self._compute()
        tensor = openvino.Tensor(np.array([ids], dtype=np.int64))
        return self._pipeline.add_request(name, tensor, GenerationConfig(**settings))

    def _compute(self) -> None:
        self._cancelled = False
        self._pipeline.step()


def _read(handle: GenerationHandle) -> Said:
    from openvino_genai import GenerationStatus

    status, ids, logs = handle.get_status(), list[int](), list[float]()
    while handle.can_read():
        for output in handle.read().values():
            ids += output.generated_ids
            logs += output.generated_log_probs
    if status == GenerationStatus.IGNORED:
        return Said(ids, logs, True, "MemoryError: there is no room for its keys and values")
    return Said(ids, logs, status != GenerationStatus.RUNNING)


def main(descriptor: str, folder: str, settings: str) -> None:
    """Answer until whoever started this has closed the socket, or has ended."""
    for one in (signal.SIGINT, signal.SIGTERM):  # the app handles them: it closes the socket after the last answer
        signal.signal(one, signal.SIG_IGN)
    pipe = Connection(int(descriptor))
    try:
        requests = Requests(open_pipeline(Path(folder), **json.loads(settings)))
    except Exception as error:
        pipe.send(f"{type(error).__name__}: {error}")
        return
    pipe.send("")
    with contextlib.suppress(EOFError, OSError):
        while True:
            while not requests.running or pipe.poll():
                requests.take(*pipe.recv())
            pipe.send(requests.step())
    os._exit(0)  # destroyed in order, the pipeline reports requests that were taken back as leaks


if __name__ == "__main__":
    from llmops.model.gguf import worker  # what is said is pickled under the name of its module

    worker.main(*sys.argv[1:])
