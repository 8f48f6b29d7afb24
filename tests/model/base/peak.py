"""Run one stage in this process and print its peak memory in bytes, for `test_memory.py`.

python peak.py nothing|train|merge BASE OUT
"""

import re
import sys
from pathlib import Path

import torch

from llmops.config import Train
from llmops.data.features.tokenize import Tokens
from llmops.model.training import fit as fit_module
from llmops.model.training.hardware import Hardware
from llmops.model.training.merge import save_merged
from llmops.model.training.qlora import Hyperparameters, load_trainable_model

RANK, EXAMPLES, TOKENS = 16, 8, 256


def train(base: str, out: Path) -> None:
    """Train two steps with the examples and tokens of the settings, and with activations computed twice."""
    fit_module.detect_hardware = lambda: Hardware(False, False, 0)
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randint(20, 40_000, (TOKENS,), generator=generator).tolist() for _ in range(2 * EXAMPLES)]
    examples = [Tokens(str(n), row, TOKENS // 2) for n, row in enumerate(rows)]
    found = Hyperparameters(learning_rate=1e-4, rank=RANK, batch=EXAMPLES)
    model = load_trainable_model(base, Train(epochs=1), found)
    fit_module.fit(model, examples, Train(epochs=1), found, out)
    model.save_pretrained(out / "adapter")


if __name__ == "__main__":
    task, base, out = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    if task == "train":
        train(base, out)
    elif task == "merge":
        save_merged(base, out / "adapter", "qlora", out / "merged")
    # `getrusage` has a maximum that is inherited over fork and exec: that of the process that asked
    found = re.search(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found
    sys.stdout.write(f"{int(found[1]) * 1024}\n")
