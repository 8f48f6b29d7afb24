"""Measure the speed and the memory of serving a folder, in a process of its own.

    python -m llmops.model.compress.speed FOLDER requests.json

The file holds `requests` (token ids of prompts), `batch` and `new_tokens`; figures are printed as JSON. The peak
memory of a fresh process is the memory that serving this folder takes.
"""

from __future__ import annotations

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

import psutil

from llmops import python_path
from llmops.errors import LlmopsError

WARM_UP = 4  #: tokens
ROUNDS = 2  #: the fastest counts: other work on the machine can only slow a round down


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
        new_tokens: longest answer, in tokens.

    Raises:
        LlmopsError: if the folder cannot be loaded or answers nothing. The message quotes the process.
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
    import torch

    from llmops.model.base.answering import open_model

    asked = json.loads(Path(task).read_text())
    requests, new_tokens = asked["requests"], asked["new_tokens"]
    model = open_model(folder)
    speeds: list[float] = []
    for size in (1, asked["batch"]):
        chosen = [requests[i % len(requests)] for i in range(size)]
        model.generate(chosen, WARM_UP, size)
        rounds = []
        for _ in range(ROUNDS):
            begun = time.perf_counter()
            count = sum(map(len, model.generate(chosen, new_tokens, size)))
            rounds.append(count / (time.perf_counter() - begun))
        speeds.append(round(max(rounds), 1))
    peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else _peak_rss()
    model.close()
    sys.stdout.write(json.dumps(asdict(Speed(speeds[0], speeds[1], round(peak / 2**20, 1)))) + "\n")


def _peak_rss() -> int:
    """Return the peak of the process that runs the model: OpenVINO has one of its own, torch is in this one."""
    process = next((child.pid for child in psutil.Process().children()), os.getpid())
    # Not `getrusage`: its maximum is inherited over fork and exec, so it would be that of the process which asked.
    found = re.search(r"^VmHWM:\s+(\d+) kB$", Path(f"/proc/{process}/status").read_text(), re.MULTILINE)
    assert found
    return int(found[1]) * 1024


if __name__ == "__main__":
    from llmops.machine import spin_briefly

    spin_briefly(os.environ)
    main(*sys.argv[1:])
