"""How fast a servable folder answers, and how much memory that takes, in a process of its own.

    python -m llmops.model.compress.speed FOLDER requests.json

The file holds `requests` (token ids of prompts), `batch` and `new_tokens`; figures are printed as JSON. A fresh process
holds nothing of what was measured before, so that its peak memory is the memory that serving this folder takes.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from llmops import python_path
from llmops.errors import LlmopsError
from llmops.model.gguf.pipeline import is_gguf
from llmops.model.gguf.process import Worker, run_requests

Count = Callable[[Sequence[Sequence[int]], int], int]  #: tokens of answers to requests, all of the length that is given

WARM_UP = 4  #: tokens
ROUNDS = 2  #: the faster of them counts: what else runs on the machine only ever slows down


@dataclass(frozen=True, slots=True)
class Speed:
    """Speed of greedy generation, and memory."""

    tokens_per_second_1: float  #: output tokens, one request at a time
    tokens_per_second_batch: float  #: a whole batch of requests at a time
    memory_mib: float  #: peak: of the process, Python and libraries included; on a GPU, of what torch took there


def measure(folder: Path, requests: Sequence[Sequence[int]], batch: int, new_tokens: int) -> Speed:
    """Measure `folder` in a fresh process.

    Args:
        folder: a model folder or a servable.
        requests: token ids of prompts, used in turn.
        batch: requests at a time.
        new_tokens: length of every answer, in tokens.

    Raises:
        LlmopsError: if the folder cannot be loaded or answers nothing; with what the process said.
    """
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
    """Measure in this process and print the figures."""
    asked = json.loads(Path(task).read_text())
    requests, new_tokens = asked["requests"], asked["new_tokens"]
    count, peak = _gguf(Path(folder)) if is_gguf(Path(folder)) else _torch(Path(folder))
    speeds = {}
    for name, size in (("1", 1), ("batch", asked["batch"])):
        chosen = [requests[i % len(requests)] for i in range(size)]
        count(chosen, WARM_UP)
        speeds[name] = 0.0
        for _ in range(ROUNDS):
            begun = time.perf_counter()
            speeds[name] = max(speeds[name], count(chosen, new_tokens) / (time.perf_counter() - begun))
    found = Speed(round(speeds["1"], 1), round(speeds["batch"], 1), round(peak() / 2**20, 1))
    sys.stdout.write(json.dumps(asdict(found)) + "\n")


def _gguf(folder: Path) -> tuple[Count, Callable[[], int]]:
    """As serving runs it; the memory is that of the model's process."""
    worker = Worker(folder)
    worker.wait_loaded()

    def count(requests: Sequence[Sequence[int]], new_tokens: int) -> int:
        settings = {"max_new_tokens": new_tokens, "ignore_eos": True}
        return sum(len(ids) for ids, _ in run_requests(worker, requests, settings, len(requests)))

    return count, lambda: _peak_rss(worker.process.pid)


def _torch(folder: Path) -> tuple[Count, Callable[[], int]]:
    import torch

    from llmops.model.base.generate import generate
    from llmops.model.base.load import load_servable

    model, tokenizer = load_servable(folder)

    def count(requests: Sequence[Sequence[int]], new_tokens: int) -> int:
        model.generation_config.min_new_tokens = new_tokens
        return sum(map(len, generate(model, tokenizer, requests, new_tokens)))

    return count, torch.cuda.max_memory_allocated if torch.cuda.is_available() else lambda: _peak_rss(os.getpid())


def _peak_rss(process: int) -> int:
    # Not `getrusage`: its maximum is inherited over fork and exec, so it would be that of the process which asked.
    found = re.search(r"^VmHWM:\s+(\d+) kB$", Path(f"/proc/{process}/status").read_text(), re.MULTILINE)
    assert found
    return int(found[1]) * 1024


if __name__ == "__main__":
    from llmops.machine import spin_briefly

    spin_briefly(os.environ)
    main(*sys.argv[1:])
