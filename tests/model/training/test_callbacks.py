"""Callbacks of a training: it stops early at the best adapter, logs its progress, and fails with a clear error."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from pydantic import ValidationError

from llmops.config import Train
from llmops.frame.errors import DiskFullError
from llmops.model.base.packing import compute_mean_loss
from llmops.model.training import fit as module
from llmops.model.training.fit import find_newest_checkpoint, fit, require_disk
from llmops.model.training.qlora import Hyperparameters, load_trainable_model
from tests.model.samples import make_tokens

HYPERPARAMETERS = Hyperparameters(learning_rate=2e-2, rank=4, batch=4)


def test_stops_early_with_the_best_adapter(base: str, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="validate_steps"):
        Train(patience=3)
    config = Train(epochs=20, validate_steps=1, patience=3)
    model = load_trainable_model(base, config, HYPERPARAMETERS)
    held_out = make_tokens(6, seed=4)  # random answers: what is learned of others makes it worse, sooner or later
    history = fit(model, make_tokens(8), config, HYPERPARAMETERS, tmp_path, held_out=held_out)
    looks = [row["validation_loss"] for row in history if "validation_loss" in row]
    assert len(looks) < 40
    assert looks.index(min(looks)) == len(looks) - 1 - config.patience
    assert compute_mean_loss(model, held_out) == pytest.approx(min(looks), abs=1e-4)


def test_reports_to_tensorboard(base: str, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = Train(epochs=2, validate_steps=2, report_to=("tensorboard",))
    history = fit(
        load_trainable_model(base, config, HYPERPARAMETERS),
        make_tokens(8),
        config,
        HYPERPARAMETERS,
        tmp_path,
        held_out=make_tokens(3),
    )
    events = EventAccumulator(str(tmp_path / "logs"))
    events.Reload()
    losses = [event.value for event in events.Scalars("train/loss")]
    assert losses == pytest.approx([row["loss"] for row in history if "loss" in row], abs=1e-3)
    assert len(events.Scalars("eval/loss")) == 2


@contextmanager
def limit_file_size(size: int) -> Iterator[None]:
    """Imitate a full disk: the kernel refuses to write a file beyond `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_a_plain_error_and_training_goes_on_when_there_is_room(base: str, tmp_path: Path) -> None:
    config = Train(epochs=2, checkpoint_steps=1)
    out = tmp_path / "out"
    with limit_file_size(20_000), pytest.raises(DiskFullError, match="GB are free.*Make room"):
        fit(load_trainable_model(base, config, HYPERPARAMETERS), make_tokens(8), config, HYPERPARAMETERS, out)
    assert find_newest_checkpoint(out / "checkpoints") is None
    history = fit(load_trainable_model(base, config, HYPERPARAMETERS), make_tokens(8), config, HYPERPARAMETERS, out)
    assert len(history) == 4


def test_a_disk_that_would_not_do_is_refused_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"x" * 1000)
    require_disk(tmp_path, tmp_path)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: SimpleNamespace(free=2999))
    with pytest.raises(DiskFullError, match="GB"):
        require_disk(tmp_path, tmp_path)
