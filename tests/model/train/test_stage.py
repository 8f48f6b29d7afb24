"""The stage `train`: what it writes, what it counts, and that it refuses a merge that lost what was learned."""

import json
import logging
import shutil
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from llmops.config import Train
from llmops.frame.errors import TrainingError
from llmops.model.base.load import load_servable
from llmops.model.base.memory import Memory
from llmops.model.base.packing import compute_mean_loss
from llmops.model.train import stage as train
from llmops.model.training import merge
from llmops.model.training.merge import save_merged
from llmops.model.training.qlora import load_trainable_model
from tests.model.samples import make_tokens

CONFIG = Train(epochs=3, validate_steps=3, rank=4, batch=4, learning_rate=5e-3)
SHORT = Train(epochs=1, rank=4, batch=4, learning_rate=5e-3)
SPLITS = {"train": make_tokens(12, 3), "validation": make_tokens(5, 3)}  # the latter is part of the former: learned too


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch, tiny_base: Path, tmp_path: Path) -> Any:
    """Runs the stage on `SPLITS`; features say that 3 of 20 examples were truncated."""
    metrics: dict[str, Any] = {"truncated": 3, "examples": 20, "tokens": {"train": 1, "validation": 1}}
    record = type("Record", (), {"metrics": metrics, "config": {"max_tokens": 32}})
    monkeypatch.setattr(train, "read_offline", lambda features, split: SPLITS[split])
    monkeypatch.setattr(train, "read_record", lambda path: record)
    monkeypatch.setattr(train, "get_base_path", lambda select: str(tiny_base))
    (tmp_path / "best.json").write_text(json.dumps({"learning_rate": 1e-4, "rank": 8, "batch": 8}))
    out = tmp_path / "out"
    out.mkdir()

    def run(config: Train = CONFIG, **changes: Any) -> tuple[dict[str, Any], Path]:
        metrics.update(changes)
        return train.run(config, features=tmp_path, select=tmp_path, tune=tmp_path, out=out), out

    return run


def test_writes_adapter_merged_model_history_and_report(
    stage: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Work is handed to processes (see `test_parallel.py`), and the trained model is gone before the merge."""
    models: list[weakref.ref[Any]] = []
    asked: list[int] = []

    def load_watched(*args: Any) -> Any:
        model = load_trainable_model(*args)
        models.append(weakref.ref(model))
        return model

    def merge_watched(*args: Any) -> None:
        assert len(models) == 1 and models[0]() is None
        save_merged(*args)

    monkeypatch.setattr(train, "load_trainable_model", load_watched)
    monkeypatch.setattr(train, "save_merged", merge_watched)
    monkeypatch.setattr(train, "run_parallel", lambda n, function, *args: asked.append(n) or function(*args))
    with caplog.at_level(logging.INFO):
        metrics, out = stage(CONFIG.model_copy(update={"processes": 2}))
    assert asked == [2] and metrics["processes"] == 2
    assert any(record.getMessage().startswith("memory: train needs") for record in caplog.records[:4])
    names = {path.name for path in out.iterdir()}
    assert names == {"adapter", "servable", "loss.json", "loss.png", "report.md"}
    history = json.loads((out / "loss.json").read_text())
    assert [row["step"] for row in history if "validation_loss" in row] == [3, 6, 9]
    assert (metrics["steps"], metrics["rank"], metrics["batch"]) == (9, 4, 4)
    assert metrics["final_loss"] < metrics["first_loss"]
    assert metrics["tokens"] == 3 * sum(len(e.token_ids) for e in SPLITS["train"])
    model, _ = load_servable(out / "servable")
    assert compute_mean_loss(model, SPLITS["validation"]) == pytest.approx(metrics["merged_validation_loss"], abs=1e-3)
    assert metrics["merged_validation_loss"] == pytest.approx(metrics["validation_loss"], abs=0.02)
    assert (metrics["truncated"], metrics["truncated_share"]) == (3, 0.15)
    assert any("3 of 20 examples (15.0 %) were truncated" in r.getMessage() for r in caplog.records)
    report = (out / "report.md").read_text()
    assert "![" in report and "loss.png" in report and "15.0 %" in report


def test_without_validation_examples_and_nothing_truncated(stage: Any, caplog: pytest.LogCaptureFixture) -> None:
    metrics, out = stage(SHORT, tokens={"train": 1}, truncated=0)
    assert metrics["validation_loss"] is None and metrics["merged_validation_loss"] is None
    assert metrics["truncated"] == 0 and "max_tokens" not in (out / "report.md").read_text()
    assert not [r for r in caplog.records if r.name == train.__name__ and r.levelno >= logging.WARNING]


def test_a_merge_that_loses_what_was_learned_is_an_error(stage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def merge_damaged(base: str, adapter: Path, method: str, out: Path) -> None:
        save_merged(base, adapter, method, out)
        weights = load_file(out / "model.safetensors")
        weights["model.embed_tokens.weight"] *= 50
        save_file(weights, out / "model.safetensors", metadata={"format": "pt"})

    monkeypatch.setattr(train, "save_merged", merge_damaged)
    with pytest.raises(TrainingError, match="lost what was learned"):
        stage(SHORT)


def test_broken_off_while_merging_it_does_not_train_again(stage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, out = stage(SHORT)
    shutil.move(out, out.with_name("whole"))
    out.mkdir()

    def break_off(shard: Any, path: Path, **_: Any) -> None:
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(merge, "save_file", break_off)
    with pytest.raises(KeyboardInterrupt):
        stage(SHORT)
    assert (out / "servable" / "model.safetensors").read_bytes() == b"half"
    monkeypatch.setattr(merge, "save_file", save_file)

    def fail_if_called(*_: Any, **__: Any) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(train, "fit", fail_if_called)
    resumed, _ = stage(SHORT)
    assert {**resumed, "seconds": 0, "tokens_per_second": 0} == {**whole, "seconds": 0, "tokens_per_second": 0}
    theirs, ours = (load_file(f / "servable" / "model.safetensors") for f in (out.with_name("whole"), out))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert not (out / "checkpoints").exists()


def test_too_little_memory_is_said_before_the_training(stage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "read_machine_memory", lambda: Memory(0.0, 0.5))
    monkeypatch.setattr(train, "train_adapter", lambda *_: pytest.fail("trained"))
    with pytest.raises(TrainingError, match=r"Not enough memory: train needs .* GiB \(RAM\), 0.5 are there.*smaller"):
        stage()
