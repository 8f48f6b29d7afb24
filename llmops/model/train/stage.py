"""Fine-tune with QLoRA: adapter, merged model, loss history, report.

An interrupted run continues from its checkpoint, or with merging if its training was finished.

python -m llmops run train
"""

import json
import logging
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from llmops.config import Train
from llmops.data.features.examples import read_offline
from llmops.data.features.tokenize import Tokens
from llmops.frame.artifacts import read_record, write_json
from llmops.frame.errors import TrainingError
from llmops.frame.records import base_path
from llmops.model.base.load import free_memory, load_model
from llmops.model.base.memory import Settings, need_memory, room
from llmops.model.base.packing import mean_loss
from llmops.model.base.shape import shape_of, stored_config
from llmops.model.train.parallel import run_parallel
from llmops.model.train.report import plot_loss, write_report
from llmops.model.training.fit import fit, need_disk
from llmops.model.training.merge import save_merged
from llmops.model.training.qlora import Hyperparameters, overruled, trainable, trained_parameters

log = logging.getLogger(__name__)

#: Nats per answer token by which merging may change the validation loss: rounding to bfloat16 makes 0.001 to 0.02, and
#: merging into a base other than the one that was trained on made 0.25.
MERGE_TOLERANCE = 0.1


LEARNED = "checkpoints/learned.json"  #: written after the adapter is saved, when only merging is left


@dataclass(frozen=True, slots=True)
class Learned:
    """The result of a training besides the adapter."""

    history: list[dict[str, float]]
    examples: int
    validation_loss: float | None
    trained: int
    parameters: int


def run(config: Train, *, features: Path, select: Path, tune: Path, out: Path) -> dict[str, Any]:
    """Write `adapter/`, `servable/` (base and adapter merged, bfloat16), `loss.json`, `loss.png` and `report.md`.

    `checkpoints/` is deleted after the training.

    Raises:
        TrainingError: if there is too little memory, there are no examples, the loss is no number, there is no
            gradient, or the merged model has lost the training.
        DiskFullError: if there is no room for the result.
    """
    base, best = base_path(select), json.loads((tune / "best.json").read_text(encoding="utf-8"))
    found = overruled(Hyperparameters(**best), config)
    need_disk(out, Path(base))
    cut = truncated(features)
    processes = config.processes or max(1, torch.cuda.device_count())
    need_memory(
        ("train", "merge", "evaluate"),
        shape_of(stored_config(Path(base))),
        Settings(
            method=config.method,
            rank=found.rank,
            examples=min(config.micro_batch or found.batch, max(1, found.batch // processes)),
            tokens=int(read_record(features).config["max_tokens"]),
        ),
        room(),
    )
    learned = _learned_before(out)
    if learned is None and processes > 1:
        learned = run_parallel(processes, learn, config, features, base, found, out)
    elif learned is None:
        learned = learn(config, features, base, found, out)
    free_memory()  # of the model that was trained, before the merge
    save_merged(base, out / "adapter", config.method, out / "servable")
    merged = _check_merged(out / "servable", features, learned.validation_loss)
    steps = [row for row in learned.history if "loss" in row]
    tokens, seconds = sum(row["tokens"] for row in steps), sum(row["seconds"] for row in steps)
    metrics = {
        "examples": learned.examples,
        **cut,
        "steps": int(steps[-1]["step"]),
        "first_loss": round(steps[0]["loss"], 4),
        "final_loss": round(sum(row["loss"] for row in steps[-5:]) / len(steps[-5:]), 4),
        "validation_loss": _rounded(learned.validation_loss),
        "merged_validation_loss": _rounded(merged),
        "tokens": int(tokens),
        "seconds": round(seconds, 1),
        "tokens_per_second": round(tokens / seconds, 1),
        "trained": learned.trained,
        "parameters": learned.parameters,
        **asdict(found),
        "processes": processes,
    }
    write_json(out / "loss.json", learned.history)
    plot_loss(learned.history, out / "loss.png")
    write_report(metrics, out / "report.md")
    shutil.rmtree(out / "checkpoints", ignore_errors=True)
    return metrics


def learn(config: Train, features: Path, base: str, found: Hyperparameters, out: Path) -> Learned:
    """Train and write `adapter/`. With several processes, each does its share of the work."""
    examples, held_out = read_offline(features, "train"), _validation(features)
    log.info("training on %d examples with %s", len(examples), found)
    model = trainable(base, config, found)
    history = fit(model, examples, config, found, out, held_out=held_out)
    first = os.environ.get("RANK", "0") == "0"
    if first:
        model.save_pretrained(out / "adapter")
    loss = mean_loss(model, held_out) if held_out else None
    learned = Learned(history, len(examples), loss, **trained_parameters(model))
    if first:
        (out / LEARNED).parent.mkdir(exist_ok=True)
        write_json(out / LEARNED, asdict(learned))
    return learned


def _learned_before(out: Path) -> Learned | None:
    """Return the result of an interrupted run's training; None if its training was not finished."""
    if not (out / LEARNED).is_file():
        return None
    log.info("trained already: going on with merging")
    return Learned(**json.loads((out / LEARNED).read_text(encoding="utf-8")))


def truncated(features: Path) -> dict[str, Any]:
    """Return the number of examples whose context `features.max_tokens` has cut, and log a warning if there are any."""
    metrics = read_record(features).metrics
    cut, of = int(metrics["truncated"]), int(metrics["examples"])
    if cut:
        log.warning(
            "%d of %d examples (%.1f %%) were truncated: their context was longer than features.max_tokens allows",
            cut,
            of,
            100 * cut / of,
        )
    return {"truncated": cut, "truncated_share": round(cut / of, 4)}


def _validation(features: Path) -> Sequence[Tokens]:
    return read_offline(features, "validation") if read_record(features).metrics["tokens"].get("validation") else []


def _check_merged(servable: Path, features: Path, expected: float | None) -> float | None:
    """Return the validation loss of the merged model, which must be close to that of the trained one (`expected`)."""
    if expected is None:
        return None
    loss = mean_loss(load_model(servable), _validation(features))
    free_memory()
    if not abs(loss - expected) < MERGE_TOLERANCE:
        raise TrainingError(
            f"The merged model has a validation loss of {loss:.3f}, the model that was trained {expected:.3f}; merging "
            f"into {servable} lost what was learned."
        )
    return loss


def _rounded(loss: float | None) -> float | None:
    return None if loss is None else round(loss, 4)
