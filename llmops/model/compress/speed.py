"""Measure the speed and the memory of serving a folder, in a process of its own.

    python -m llmops.model.compress.speed FOLDER requests.json

The file holds `requests` (token ids of prompts), `batch` and `new_tokens`; figures are printed as JSON. The peak
memory of a fresh process is the memory that serving this folder takes. A GGUF file needs no such process: OpenVINO
always runs in a process of its own.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from llmops import python_path
from llmops.frame.errors import LlmopsError
from llmops.model.gguf.worker import is_gguf

WARM_UP_TOKENS = 4
ROUNDS = 2  #: the fastest counts: other work on the machine can only slow a round down


@dataclass(frozen=True, slots=True)
class Speed:
    """Speed of greedy generation, and memory."""

    tokens_per_second_1: float  #: output tokens, one request at a time
    tokens_per_second_batch: float  #: a whole batch of requests at a time
    memory_mib: float  #: peak: of the process, Python and libraries included; on a GPU, of what torch took there


def measure_speed(folder: Path, requests: Sequence[Sequence[int]], batch: int, new_tokens: int) -> Speed:
    """Measure a model folder in a fresh process with prompts (token ids), which are used in turn.

    Raises:
        LlmopsError: if the folder cannot be loaded or answers nothing. The message quotes the process.
    """
    if is_gguf(folder):
        return _measure_loaded(folder, requests, batch, new_tokens)
    with tempfile.TemporaryDirectory() as scratch:
        task = Path(scratch) / "requests.json"
        task.write_text(json.dumps({"requests": [*map(list, requests)], "batch": batch, "new_tokens": new_tokens}))
        done = subprocess.run(
            [sys.executable, "-m", "llmops.model.compress.speed", str(folder), str(task)],
            env={**os.environ, "PYTHONPATH": python_path()},
            capture_output=True,
            text=True,
        )
    if done.returncode:
        raise LlmopsError(f"{folder} cannot be measured ({done.returncode}): {done.stderr[-800:]}")
    return Speed(**json.loads(done.stdout.splitlines()[-1]))


def main(folder: str, task: str) -> None:
    """Measure a model that torch runs in this process, and print the figures."""
    sys.stdout.write(json.dumps(asdict(_measure_loaded(Path(folder), **json.loads(Path(task).read_text())))) + "\n")


def _measure_loaded(folder: Path, requests: Sequence[Sequence[int]], batch: int, new_tokens: int) -> Speed:
    import torch

    from llmops.model.base.inference import open_model

    model = open_model(folder)
    speeds: list[float] = []
    for size in (1, batch):
        chosen = [requests[i % len(requests)] for i in range(size)]
        model.generate(chosen, WARM_UP_TOKENS, size)
        rounds = []
        for _ in range(ROUNDS):
            start = time.perf_counter()
            count = sum(map(len, model.generate(chosen, new_tokens, size)))
            rounds.append(count / (time.perf_counter() - start))
        speeds.append(round(max(rounds), 1))
    on_gpu = torch.cuda.is_available() and not is_gguf(folder)
    peak = torch.cuda.max_memory_allocated() if on_gpu else _read_peak_rss(model.process_id)
    model.close()
    return Speed(speeds[0], speeds[1], round(peak / 2**20, 1))


def _read_peak_rss(process: int) -> int:
    # Not `getrusage`: fork and exec inherit its maximum, so it would be that of the calling process.
    found = re.search(r"^VmHWM:\s+(\d+) kB$", Path(f"/proc/{process}/status").read_text(), re.MULTILINE)
    assert found
    return int(found[1]) * 1024


if __name__ == "__main__":
    from llmops.frame.machine import shorten_thread_spin

    shorten_thread_spin(os.environ)
    main(*sys.argv[1:])
