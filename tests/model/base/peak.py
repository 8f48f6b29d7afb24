"""Does one stage's work in this process and prints its peak memory in bytes, for `test_memory.py`.

python peak.py nothing|train|merge BASE OUT
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import torch

from llmops.config import Train
from llmops.features.tokenize import Tokens
from llmops.model.base.load import load_model
from llmops.model.base.memory import SCORED
from llmops.model.base.packing import mean_loss
from llmops.model.training import fit as fit_module
from llmops.model.training.hardware import Hardware
from llmops.model.training.merge import save_merged
from llmops.model.training.qlora import Hyperparameters, trainable

RANK, EXAMPLES, TOKENS = 16, 8, 256


def train(base: str, out: Path) -> None:
    """Two steps, each of as many examples and tokens as the settings say, with activations computed twice."""
    fit_module.detect_hardware = lambda: Hardware(False, False, 0)
    found = Hyperparameters(learning_rate=1e-4, rank=RANK, batch=EXAMPLES)
    model = trainable(base, Train(epochs=1), found)
    fit_module.fit(model, some(2 * EXAMPLES), Train(epochs=1), found, out)
    model.save_pretrained(out / "adapter")


def merge(base: str, out: Path) -> None:
    """Merge what was trained, and judge the result as `train` does, on as many examples as are read together."""
    save_merged(base, out / "adapter", "qlora", out / "merged")
    mean_loss(load_model(out / "merged"), some(SCORED))


def some(count: int) -> list[Tokens]:
    """So many examples, half of whose tokens are answers."""
    make = torch.Generator().manual_seed(0)
    rows = [torch.randint(20, 40_000, (TOKENS,), generator=make).tolist() for _ in range(count)]
    return [Tokens(str(n), row, TOKENS // 2) for n, row in enumerate(rows)]


def peak() -> int:
    """Not `getrusage`: its maximum is inherited over fork and exec, so it would be that of the process that asked."""
    found = re.search(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found
    return int(found[1]) * 1024


if __name__ == "__main__":
    work, base, out = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    if work == "train":
        train(base, out)
    elif work == "merge":
        merge(base, out)
    sys.stdout.write(f"{peak()}\n")
