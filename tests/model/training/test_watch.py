"""What is looked at while training: it stops early at the best adapter, says how far it is, and fails plainly."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from pydantic import ValidationError

from llmops.config import Train
from llmops.frame.errors import DiskFullError
from llmops.model.base.packing import mean_loss
from llmops.model.training import fit as module
from llmops.model.training.fit import fit, need_disk, newest_checkpoint
from llmops.model.training.qlora import Hyperparameters, trainable
from tests.model.made import examples

FOUND = Hyperparameters(learning_rate=2e-2, rank=4, batch=4)


def test_stops_early_with_the_best_adapter(base: str, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="validate_steps"):
        Train(patience=3)
    config = Train(epochs=20, validate_steps=1, patience=3)
    model = trainable(base, config, FOUND)
    held_out = examples(6, seed=4)  # random answers: what is learned of others makes it worse, sooner or later
    history = fit(model, examples(8), config, FOUND, tmp_path, held_out=held_out)
    looks = [row["validation_loss"] for row in history if "validation_loss" in row]
    assert len(looks) < 40
    assert looks.index(min(looks)) == len(looks) - 1 - config.patience
    assert mean_loss(model, held_out) == pytest.approx(min(looks), abs=1e-4)


def test_reports_to_tensorboard(base: str, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = Train(epochs=2, validate_steps=2, report_to=("tensorboard",))
    history = fit(trainable(base, config, FOUND), examples(8), config, FOUND, tmp_path, held_out=examples(3))
    events = EventAccumulator(str(tmp_path / "logs"))
    events.Reload()
    losses = [event.value for event in events.Scalars("train/loss")]
    assert losses == pytest.approx([row["loss"] for row in history if "loss" in row], abs=1e-3)
    assert len(events.Scalars("eval/loss")) == 2


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """A disk with no room: the kernel refuses to write a file beyond `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_a_plain_error_and_training_goes_on_when_there_is_room(base: str, tmp_path: Path) -> None:
    config = Train(epochs=2, checkpoint_steps=1)
    out = tmp_path / "out"
    with files_of_at_most(20_000), pytest.raises(DiskFullError, match="GB are free.*Make room"):
        fit(trainable(base, config, FOUND), examples(8), config, FOUND, out)
    assert newest_checkpoint(out / "checkpoints") is None
    history = fit(trainable(base, config, FOUND), examples(8), config, FOUND, out)
    assert len(history) == 4


def test_a_disk_that_would_not_do_is_refused_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"x" * 1000)
    need_disk(tmp_path, tmp_path)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: SimpleNamespace(free=2999))
    with pytest.raises(DiskFullError, match="GB"):
        need_disk(tmp_path, tmp_path)
