"""Two processes share every batch through gloo and learn what one process learns."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmops.config import Train
from llmops.frame.errors import TrainingError
from llmops.model.train.parallel import run_parallel
from llmops.model.training.fit import find_newest_checkpoint, fit
from llmops.model.training.qlora import load_trainable_model
from tests.model.samples import HYPERPARAMETERS, make_tokens

CONFIG = Train(epochs=2, checkpoint_steps=2)


def train_model(base: str, config: Train, out: Path) -> dict[str, Any]:
    model = load_trainable_model(base, config, HYPERPARAMETERS)
    history = fit(model, make_tokens(12), config, HYPERPARAMETERS, out)
    weights = {n: p.detach().numpy() for n, p in model.named_parameters() if p.requires_grad}
    return {"history": history, "weights": weights, "world": int(os.environ.get("WORLD_SIZE", "1"))}


def fail(message: str) -> None:
    if os.environ["RANK"] == "1":
        raise TrainingError(message)


@pytest.mark.journey
def test_two_processes_learn_what_one_learns(base: str, tmp_path: Path) -> None:
    one = train_model(base, CONFIG, tmp_path / "one")
    two = run_parallel(2, train_model, base, CONFIG, tmp_path / "two")
    assert (one["world"], two["world"]) == (1, 2)
    assert [row["tokens"] for row in two["history"]] == [row["tokens"] for row in one["history"]]
    assert [row["loss"] for row in two["history"]] == pytest.approx([row["loss"] for row in one["history"]], abs=5e-3)
    ours, theirs = (np.concatenate([w.ravel() for w in run["weights"].values()]) for run in (two, one))
    assert np.linalg.norm(ours - theirs) < 0.02 * np.linalg.norm(theirs)  # Adam makes a step of every rounding
    whole = find_newest_checkpoint(tmp_path / "two" / "checkpoints")
    assert whole and {"rng_state_0.pth", "rng_state_1.pth"} <= {p.name for p in whole.iterdir()}


@pytest.mark.journey
def test_a_process_that_fails_says_why() -> None:
    with pytest.raises(TrainingError, match="Process 1 of 2 failed.*no luck"):
        run_parallel(2, fail, "no luck")


def test_micro_batches_learn_what_whole_batches_learn(base: str, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"micro_batch, 3, must divide .* 4"):
        train_model(base, Train(micro_batch=3), tmp_path)
    whole, parts = (
        train_model(base, Train(epochs=2, micro_batch=size), tmp_path / str(size))["history"] for size in (0, 1)
    )
    assert [row["loss"] for row in parts] == pytest.approx([row["loss"] for row in whole], abs=5e-3)
    assert [row["tokens"] for row in parts] == [row["tokens"] for row in whole]
