"""Fine-tune with QLoRA: adapter, servable model, loss history. An interrupted run goes on from its checkpoint.

python -m llmops run train
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from pathlib import Path
from typing import Any

import matplotlib

from llmops.artifacts import write_json
from llmops.config import Train
from llmops.errors import TrainingError
from llmops.features.store import read_offline
from llmops.model.fit import fit
from llmops.model.packing import mean_loss
from llmops.model.qlora import Hyperparameters, save_servable, trainable, trained_parameters
from llmops.model.select import base_path

log = logging.getLogger(__name__)


def run(config: Train, *, features: Path, select: Path, tune: Path, out: Path) -> dict[str, Any]:
    """Write `adapter/`, `servable/`, `loss.json` and `loss.png`; `checkpoints/` only lives while training does."""
    base, found = base_path(select), hyperparameters(config, tune)
    examples, held_out = read_offline(features, "train"), read_offline(features, "validation")
    _need_disk(out, Path(base))
    log.info("training on %d examples with %s", len(examples), found)
    model = trainable(base, config, found)
    started = time.monotonic()
    history = fit(model, examples, config, found, out)
    seconds = time.monotonic() - started
    model.save_pretrained(out / "adapter")
    counts = trained_parameters(model)
    validation = mean_loss(model, held_out) if held_out and not config.dropout else None
    del model
    save_servable(base, out / "adapter", config, out / "servable")
    write_json(out / "loss.json", history)
    plot_loss(history, out / "loss.png")
    shutil.rmtree(out / "checkpoints", ignore_errors=True)
    tokens = sum(len(e.token_ids) for e in examples)
    return {
        "examples": len(examples),
        "steps": int(history[-1]["step"]),
        "first_loss": round(history[0]["loss"], 4),
        "final_loss": round(sum(h["loss"] for h in history[-5:]) / len(history[-5:]), 4),
        "validation_loss": validation and round(validation, 4),
        "tokens": tokens,
        "seconds": round(seconds, 1),
        "tokens_per_second": round(tokens * config.epochs / seconds, 1),
        **counts,
        "learning_rate": found.learning_rate,
        "rank": found.rank,
        "batch": found.batch,
    }


def hyperparameters(config: Train, tune: Path) -> Hyperparameters:
    """What `tune` found, each value overruled by a non-zero one in the section `train`."""
    best = json.loads((tune / "best.json").read_text(encoding="utf-8"))
    return Hyperparameters(
        learning_rate=config.learning_rate or best["learning_rate"],
        rank=config.rank or best["rank"],
        batch=config.batch or best["batch"],
    )


def plot_loss(history: list[dict[str, float]], path: Path) -> None:
    """Draw loss over optimiser steps, with its running mean."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    steps, losses = [h["step"] for h in history], [h["loss"] for h in history]
    smooth = losses[0]
    running = [smooth := 0.8 * smooth + 0.2 * value for value in losses]
    figure, axes = pyplot.subplots(figsize=(7, 3.5), layout="constrained")
    axes.plot(steps, losses, color="#9ab", linewidth=1, label="step")
    axes.plot(steps, running, color="#124", linewidth=2, label="running mean")
    axes.set(xlabel="optimiser step", ylabel="loss per answer token (nats)", ylim=(0, None))
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _need_disk(out: Path, base: Path) -> None:
    need = 3 * sum(f.stat().st_size for f in base.rglob("*.safetensors"))
    free = shutil.disk_usage(out).free
    if free < need:
        raise TrainingError(
            f"Training needs about {need / 1e9:.1f} GB on the disk of {out}, {free / 1e9:.1f} GB are free."
        )
