"""A process is killed with SIGKILL in the middle of a long stage: the next run continues, with the same result."""

import logging
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from llmops.config import Train, Tune
from llmops.model.train import stage as train
from llmops.model.tune import stage as tune
from tests.model.samples import make_tokens

pytestmark = pytest.mark.journey

SPLITS = {"train": make_tokens(16, 1), "validation": make_tokens(8, 2)}
TRAIN = Train(epochs=2, rank=4, batch=4, learning_rate=5e-3, checkpoint_steps=2)
TUNE = Tune(search="random", trials=3, steps=2, halving=1, validation_items=4)
KILLED_SCRIPT = (
    "import sys; from tests.model.test_killed import kill_before_write, run_stage; "
    "kill_before_write(*sys.argv[4:]); run_stage(*sys.argv[1:4])"
)


def run_stage(stage: str, base: str, out: str) -> None:
    """Run a stage on `SPLITS`, from the start or from its last checkpoint."""
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    (folder.parent / "best.json").write_text('{"learning_rate": 1e-4, "rank": 8, "batch": 8}')
    metrics: dict[str, Any] = {"truncated": 0, "examples": 24, "tokens": {"validation": 1}}
    inputs = {"features": folder, "select": folder, "out": folder}
    with pytest.MonkeyPatch.context() as patch:
        for module in (train, tune):
            patch.setattr(module, "read_offline", lambda _, split: SPLITS[split])
            patch.setattr(module, "get_base_path", lambda _: base)
        patch.setattr(train, "read_record", lambda _: SimpleNamespace(metrics=metrics, config={"max_tokens": 32}))
        if stage == "train":
            train.run(TRAIN, tune=folder.parent, **inputs)
        else:
            tune.run(TUNE, train=Train(), **inputs)


def kill_before_write(part: str, count: str) -> None:
    """Make this process kill itself before the `count`-th writing or renaming of a file with `part` in its path."""
    left = int(count)

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        if event == "os.rename" or (event == "open" and arguments[2] & os.O_ACCMODE):
            left -= any(part in str(argument) for argument in arguments)
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


@pytest.mark.parametrize(
    ("stage", "at", "output", "logged"),
    [
        ("train", ("checkpoint-4/", "2"), "adapter/adapter_model.safetensors", ["checkpoint-2"]),
        ("tune", ("/trials.json", "2"), "trials.json", ["trial 1 after", "trial 2 after"]),
    ],
)
def test_a_killed_stage_continues_with_the_same_result(
    tiny_base: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    stage: str,
    at: Any,
    output: str,
    logged: list[str],
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "killed"
    run_stage(stage, str(tiny_base), str(whole))
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_SCRIPT, stage, tiny_base, out, *at], capture_output=True, text=True
    )
    assert killed.returncode == -signal.SIGKILL and not (out / "report.md").exists(), killed.stderr
    with caplog.at_level(logging.INFO):
        caplog.clear()
        run_stage(stage, str(tiny_base), str(out))
    found = (re.search(r"checkpoint-\d+$|^trial \d after", record.getMessage()) for record in caplog.records)
    assert [one[0] for one in found if one] == logged
    assert (out / output).read_bytes() == (whole / output).read_bytes()
    assert not {"checkpoints", ".trials"} & {path.name for path in out.iterdir()}
