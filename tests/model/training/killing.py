"""Trains in child processes that kill themselves at random points, for `test_resume.py`.

The parent has imported everything and computed nothing, so it may fork: a child costs a fraction of a second.

    python killing.py BASE OUT KILLS
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from llmops.config import Train
from llmops.features.tokenize import Tokens
from llmops.model.training.checkpoints import newest_checkpoint
from llmops.model.training.fit import PackedTrainer, fit
from llmops.model.training.qlora import Hyperparameters, trainable

FOUND = Hyperparameters(learning_rate=5e-3, rank=4, batch=4)
CONFIGS = {  # 16 examples, 4 a step, 3 epochs: checkpoints fall within and between epochs
    "plain": Train(checkpoint_steps=2),
    "dropout": Train(checkpoint_steps=3, dropout=0.2, group_by_length=True),
    "looks": Train(checkpoint_steps=2, micro_batch=2, rslora=True, validate_steps=1, patience=9),
    "dora": Train(checkpoint_steps=5, dora=True, method="lora"),
}


def examples(count: int, seed: int) -> list[Tokens]:
    make = torch.Generator().manual_seed(seed)
    rows = [torch.randint(20, 400, (8 + 3 * (i % 7),), generator=make).tolist() for i in range(count)]
    return [Tokens(f"{seed}-{i}", row, len(row) // 2) for i, row in enumerate(rows)]


def learn(base: str, out: Path, config: Train) -> None:
    """One training from wherever it is to its end; writes its history and its adapter's weights."""
    model = trainable(base, config, FOUND)
    history = fit(model, examples(16, 3), config, FOUND, out, held_out=examples(6, 4))
    weights = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
    torch.save(weights, out / "weights.pt")
    (out / "history.json").write_text(json.dumps(history))


def kill_at(step: int, where: str) -> None:
    """Arrange for SIGKILL in a forward pass, before an optimiser step, or while a checkpoint is written."""

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    if where == "saving":
        whole = torch.save

        def half(value: Any, path: Any, *args: Any, **kwargs: Any) -> None:
            if f"checkpoint-{step}/" in str(path):
                Path(path).write_bytes(b"half")
                die()
            whole(value, path, *args, **kwargs)

        torch.save = half
        return
    name = "compute_loss" if where == "forward" else "training_step"
    real = getattr(PackedTrainer, name)

    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.state.global_step + 1 == step and where == "forward":
            die()
        result = real(self, *args, **kwargs)
        if self.state.global_step + 1 == step:
            die()
        return result

    setattr(PackedTrainer, name, method)


def child(base: str, out: Path, config: Train, kill: tuple[int, str] | None) -> int:
    """The wait status of a forked process that trains and, perhaps, kills itself."""
    pid = os.fork()
    if pid:
        return os.waitpid(pid, 0)[1]
    try:
        if kill:
            kill_at(*kill)
        learn(base, out, config)
        os._exit(0)
    except BaseException as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        os._exit(1)


def train_twice(base: str, folder: Path, name: str, kills: int) -> list[tuple[int, str]]:
    """Train once undisturbed and once through `kills` kills; returns where those were."""
    config, rng = CONFIGS[name], random.Random(name)
    whole, killed = folder / "whole", folder / "killed"
    assert child(base, whole, config, None) == 0
    last = int(json.loads((whole / "history.json").read_text())[-1]["step"])
    points: list[tuple[int, str]] = []
    for _ in range(kills):
        newest = newest_checkpoint(killed / "checkpoints")
        done = int(newest.name.split("-")[1]) if newest else 0
        where = rng.choice(["forward", "backward", "saving"])
        every = config.checkpoint_steps
        steps = [s for s in range(done + 1, last + 1) if where != "saving" or s % every == 0]
        if not steps:  # the last checkpoint is behind it already
            where, steps = "forward", list(range(done + 1, last + 1))
        if not steps:
            (killed / "checkpoints").rename(folder / f"used-{len(points)}")  # once more from the beginning
            steps = list(range(1, last + 1))
        point = (rng.choice(steps), where)
        assert child(base, killed, config, point) == signal.SIGKILL, point
        points.append(point)
    assert child(base, killed, config, None) == 0
    return points


if __name__ == "__main__":
    out = Path(sys.argv[2])
    found = {name: train_twice(sys.argv[1], out / name, name, int(sys.argv[3])) for name in CONFIGS}
    (out / "points.json").write_text(json.dumps(found))
