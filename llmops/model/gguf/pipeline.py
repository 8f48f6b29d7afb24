"""Run the GGUF file of a servable folder with OpenVINO GenAI: requests by token ids, many in one batch.

This is what happens in the process of `worker`, which serving and the stages ask alike, by `process`.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from llmops import machine

if TYPE_CHECKING:
    from openvino_genai import ContinuousBatchingPipeline, GenerationHandle

FILE = "model.gguf"  #: of a servable folder

MAX_SEQS = 256  #: most requests in one step, unless somebody says fewer
BLOCK = 32  #: tokens whose keys and values are kept together

Precision = Literal["f32", "bf16"]

#: How OpenVINO computes. In `f32` an answer is the same whoever else asks, for which keys and values are kept so, too,
#: and what enters a layer of 8- or 4-bit weights is not rounded by all that enters it at once. `bf16` leaves all that
#: to OpenVINO: more tokens/s where many ask, and answers that differ in near ties.
PRECISIONS: dict[Precision, dict[str, Any]] = {
    "f32": {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0},
    "bf16": {"INFERENCE_PRECISION_HINT": "bf16"},
}


class Said(NamedTuple):
    """What is new of a request."""

    ids: list[int]  #: its new tokens
    logs: list[float]  #: their log-probabilities, if it asks for them
    ended: bool  #: whether they are the last
    why: str = ""  #: what is wrong with the request, which has ended


def is_gguf(folder: Path) -> bool:
    """Whether the model of a folder is a GGUF file."""
    return (folder / FILE).is_file()


def open_pipeline(
    folder: Path,
    batch: int = MAX_SEQS,
    tokens: int = 0,
    threads: int = 0,
    precision: Precision = "f32",
    share_prefixes: bool = False,
) -> ContinuousBatchingPipeline:
    """Load the GGUF file of a servable folder.

    Args:
        folder: the servable.
        batch: most requests in one step.
        tokens: most tokens of one, prompt and answer together: there is room for the keys and values of `batch` times
            as many. 0: there is room for whatever comes.
        threads: that compute; 0: one per core that this process may use.
        precision: see `PRECISIONS`.
        share_prefixes: do not read again what was asked before and begins the same. Its log-probabilities are then
            left out.
    """
    import openvino_genai

    scheduler = openvino_genai.SchedulerConfig()
    scheduler.max_num_seqs = batch
    scheduler.num_kv_blocks = batch * ceil(tokens / BLOCK)
    scheduler.dynamic_split_fuse = True
    scheduler.enable_prefix_caching = share_prefixes
    # Pinned, two of them side by side would compute on the same cores while others are idle.
    properties = {
        **PRECISIONS[precision],
        "INFERENCE_NUM_THREADS": threads or machine.threads(),
        "ENABLE_CPU_PINNING": False,
    }
    with _writable(folder / FILE) as file:
        return openvino_genai.ContinuousBatchingPipeline(str(file), scheduler, "CPU", properties)


@contextmanager
def _writable(file: Path) -> Iterator[Path]:
    """A file where OpenVINO, which opens it for writing, too, and only reads it, can open it.

    One that may only be read is copied to memory until it is loaded. A temporary file would fill an image's `/tmp`.
    """
    if os.access(file, os.W_OK):
        yield file
        return
    with open(os.memfd_create(FILE), "wb") as copy, tempfile.TemporaryDirectory() as folder:
        with open(file, "rb") as source:
            shutil.copyfileobj(source, copy, 1 << 20)
        copy.flush()
        link = Path(folder) / FILE  # its name says what it is
        link.symlink_to(f"/proc/self/fd/{copy.fileno()}")
        yield link


def tensor(ids: Sequence[int]) -> Any:
    """Token ids as a pipeline takes them, of shape (1, tokens)."""
    import numpy as np
    import openvino

    return openvino.Tensor(np.array([ids], dtype=np.int64))


def read(handle: GenerationHandle) -> Said:
    """What is new of a request."""
    from openvino_genai import GenerationStatus

    status, ids, logs = handle.get_status(), list[int](), list[float]()
    while handle.can_read():  # after asking for the status: what ends while we read is read the next time
        for output in handle.read().values():
            ids += output.generated_ids
            logs += output.generated_log_probs
    if status == GenerationStatus.IGNORED:
        return Said(ids, logs, True, "MemoryError: there is no room for its keys and values")
    return Said(ids, logs, status != GenerationStatus.RUNNING)
