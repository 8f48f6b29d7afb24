"""Killed at 20 random points, while computing or while writing a checkpoint, a training ends where it would have."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

KILLS = 5  #: of each training


@pytest.fixture(scope="module")
def trained(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("kills")
    command = [sys.executable, str(Path(__file__).with_name("killing.py")), str(tiny_base), str(out), str(KILLS)]
    environment = {**os.environ, "PYTHONPATH": os.getcwd(), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return out


@pytest.mark.parametrize("name", ["plain", "dropout", "looks", "dora"])
def test_killed_at_random_points_all_end_equal(trained: Path, name: str) -> None:
    points = json.loads((trained / "points.json").read_text())[name]
    assert len(points) == KILLS and len({step for step, _ in points}) > 1
    runs = [trained / name / run for run in ("whole", "killed")]
    whole, killed = (json.loads((run / "history.json").read_text()) for run in runs)
    assert [row["step"] for row in killed] == [row["step"] for row in whole]
    for key in ("loss", "grad_norm", "learning_rate", "tokens", "validation_loss"):
        assert [row.get(key) for row in killed] == [row.get(key) for row in whole]
    theirs, ours = (torch.load(run / "weights.pt") for run in runs)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[n], theirs[n]) for n in ours)
