"""The process that runs the GGUF file of a servable folder with OpenVINO GenAI, many requests in one batch.

    python -m llmops.model.gguf.worker DESCRIPTOR FOLDER '{"batch": 16, "tokens": 2048}'

`process.Worker` starts the process, and sends requests over a socket. The pipeline has its own process because each
step holds Python's lock until it is computed, tenths of a second for the prompts of 16 requests. An app in the same
process could not answer meanwhile. A damaged file that crashes OpenVINO's reader ends only this process.

The message `(request id, token ids, settings, JSON schema or "")` starts a request, and `(request id, None, {}, "")`
cancels it. The process's first message is the reason why the model cannot be loaded, or empty. After each step it sends
request id → `StepOutput`.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from math import ceil
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from llmops.frame import machine
from llmops.model.gguf.grammars import Grammars

if TYPE_CHECKING:
    from openvino_genai import ContinuousBatchingPipeline, GenerationHandle

GGUF_FILE = "model.gguf"  #: name in a servable folder
BLOCK_TOKENS = 32  #: tokens whose keys and values are stored together

Precision = Literal["f32", "bf16"]

#: OpenVINO's settings of a precision. With `f32`, keys and values have 32 bits, too, and the input of a layer of 8-bit
#: weights is not rounded, so that other requests do not change an answer. `bf16` leaves both to OpenVINO.
PRECISIONS: dict[Precision, dict[str, Any]] = {
    "f32": {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0},
    "bf16": {"INFERENCE_PRECISION_HINT": "bf16"},
}


class StepOutput(NamedTuple):
    """The output of a step for one request."""

    ids: list[int]  #: new tokens
    log_probs: list[float]  #: their log-probabilities, if the request asks for them
    ended: bool  #: True if these tokens are the last
    error: str = ""  #: the reason if the request has ended without an answer


def is_gguf(folder: Path) -> bool:
    """Return True if the model of a folder is a GGUF file."""
    return (folder / GGUF_FILE).is_file()


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
        folder: the servable folder.
        batch: most requests in one step.
        tokens: most tokens of a request, prompt and answer together. The keys and values of `batch` times as many fit
            into memory. 0: memory grows as needed.
        threads: threads that compute; 0: see `machine.count_threads`.
        precision: see `PRECISIONS`.
        share_prefixes: reuse the keys and values of a beginning that an earlier prompt had. That part has no
            log-probabilities.
    """
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # without it OpenVINO sends no usage reports
    import openvino_genai

    scheduler = openvino_genai.SchedulerConfig()
    scheduler.max_num_seqs = batch
    scheduler.num_kv_blocks = batch * ceil(tokens / BLOCK_TOKENS)
    scheduler.enable_prefix_caching = share_prefixes
    # With pinning, two pipelines (while a version is swapped) would share the same cores and leave others idle.
    properties = {
        **PRECISIONS[precision],
        "INFERENCE_NUM_THREADS": threads or machine.count_threads(),
        "ENABLE_CPU_PINNING": False,
    }
    with _make_writable(folder / GGUF_FILE) as file:
        return openvino_genai.ContinuousBatchingPipeline(str(file), scheduler, "CPU", properties)


@contextlib.contextmanager
def _make_writable(file: Path) -> Iterator[Path]:
    """Yield a writable path, because OpenVINO opens files for writing, too. Copy a read-only file to memory."""
    if os.access(file, os.W_OK):
        yield file
        return
    with os.fdopen(os.memfd_create(GGUF_FILE), "wb") as copy, tempfile.TemporaryDirectory() as folder:
        with file.open("rb") as source:
            shutil.copyfileobj(source, copy, 1 << 20)
        copy.flush()
        link = Path(folder) / GGUF_FILE  # OpenVINO knows the format by the name
        link.symlink_to(f"/proc/self/fd/{copy.fileno()}")
        yield link


class PipelineRequests:
    """The requests of a pipeline, by their ids. `open` opens the pipeline.

    Nothing but opening the pipeline again frees compiled schemas. If a new schema finds no room, no request starts
    until those that run have ended and the pipeline is open again.
    """

    def __init__(self, open: Callable[[], ContinuousBatchingPipeline]) -> None:
        self._open, self._handles = open, dict[int, Any]()
        self._waiting: dict[int, tuple[Sequence[int], Mapping[str, Any], str]] = {}
        self._load()

    @property
    def running(self) -> bool:
        """Return True if there is something to compute or to send."""
        return bool(self._handles or self._waiting)

    def handle_message(
        self, request_id: int, ids: Sequence[int] | None, settings: Mapping[str, Any], schema: str
    ) -> None:
        """Let a request start in the next step, or cancel it."""
        if ids is not None:
            self._waiting[request_id] = ids, settings, schema
        elif handle := self._handles.pop(request_id, None):
            handle.cancel()
            self._cancelled = True
        else:
            self._waiting.pop(request_id, None)

    def step(self) -> dict[int, StepOutput]:
        """Compute a step, and return its output by request id."""
        outputs = self._start_waiting()
        if self._handles:
            self._compute()
        for request_id, handle in list(self._handles.items()):
            output = _read_output(handle)
            if output.ended:
                del self._handles[request_id]
            if output.ended or output.ids:
                outputs[request_id] = output
        return outputs

    def _start_waiting(self) -> dict[int, StepOutput]:
        """Start requests up to the first one with a schema, so that others do not wait while several are compiled."""
        refusals: dict[int, StepOutput] = {}
        while self._waiting:
            request_id, (ids, settings, schema) = next(iter(self._waiting.items()))
            if schema and not self._grammars.has_room(schema):
                if self._handles:
                    break
                self._reopen()
            del self._waiting[request_id]
            try:
                self._handles[request_id] = self._start(request_id, ids, settings, schema)
            except Exception as error:
                refusals[request_id] = StepOutput([], [], True, f"{type(error).__name__}: {error}")
            if schema:
                break
        return refusals

    def _load(self) -> None:
        self._pipeline = self._open()
        self._grammars = Grammars(self._pipeline.get_tokenizer())
        self._cancelled = False  # True if a request was cancelled since the last step; a step frees its blocks

    def _reopen(self) -> None:
        self._compute()  # OpenVINO reports cancelled requests that no step has removed
        del self._pipeline, self._grammars  # before another one is in memory
        try:
            self._load()
        except Exception as error:
            sys.exit(f"The model cannot be opened again, to free the JSON schemas of answers: {error}")

    def _start(self, request_id: int, ids: Sequence[int], settings: Mapping[str, Any], schema: str) -> GenerationHandle:
        import numpy as np
        import openvino
        from openvino_genai import GenerationConfig

        if self._cancelled:
            self._compute()
        structure = {"structured_output_config": self._grammars.compile(schema)} if schema else {}
        tensor = openvino.Tensor(np.array([ids], dtype=np.int64))
        return self._pipeline.add_request(request_id, tensor, GenerationConfig(**settings, **structure))

    def _compute(self) -> None:
        self._cancelled = False
        self._pipeline.step()


def _read_output(handle: GenerationHandle) -> StepOutput:
    from openvino_genai import GenerationStatus

    status, ids, log_probs = handle.get_status(), list[int](), list[float]()
    while handle.can_read():
        for output in handle.read().values():
            ids += output.generated_ids
            log_probs += output.generated_log_probs
    if status == GenerationStatus.IGNORED:
        return StepOutput(ids, log_probs, True, "MemoryError: there is no room for its keys and values")
    return StepOutput(ids, log_probs, status != GenerationStatus.RUNNING)


def main(descriptor: str, folder: str, settings: str) -> None:
    """Answer requests until the process that started this one closes the socket, or ends."""
    for number in (signal.SIGINT, signal.SIGTERM):  # the app handles them: it closes the socket after the last answer
        signal.signal(number, signal.SIG_IGN)
    pipe = Connection(int(descriptor))
    try:
        requests = PipelineRequests(partial(open_pipeline, Path(folder), **json.loads(settings)))
    except Exception as error:
        pipe.send(f"{type(error).__name__}: {error}")
        return
    pipe.send("")
    with contextlib.suppress(EOFError, OSError):
        while True:
            while not requests.running or pipe.poll():
                requests.handle_message(*pipe.recv())
            pipe.send(requests.step())
    os._exit(0)  # an ordinary exit would destroy the pipeline, which then reports cancelled requests as leaks


if __name__ == "__main__":
    from llmops.model.gguf import worker  # pickles `StepOutput` under the name of its module, not of `__main__`

    worker.main(*sys.argv[1:])
