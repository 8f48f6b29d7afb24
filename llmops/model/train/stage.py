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
from llmops.frame.records import get_base_path
from llmops.model.base.encoder import choose_smoothing
from llmops.model.base.load import free_memory, load_model, load_tokenizer
from llmops.model.base.memory import MemorySettings, read_machine_memory, require_memory
from llmops.model.base.packing import compute_mean_loss
from llmops.model.base.shape import measure_shape, read_stored_config
from llmops.model.train.parallel import run_parallel
from llmops.model.train.report import plot_loss, write_report
from llmops.model.training.fit import fit, require_disk
from llmops.model.training.merge import save_merged
from llmops.model.training.qlora import Hyperparameters, apply_fixed_values, count_parameters, load_trainable_model
from llmops.model.training.reuse import reuse_training
from llmops.prompts.encoder import is_encoder

log = logging.getLogger(__name__)

#: Nats per answer token by which merging may change the validation loss: rounding to bfloat16 makes 0.001 to 0.02, and
#: merging into a base other than the one that was trained on made 0.25.
MERGE_TOLERANCE = 0.1

RESULT_FILE = "checkpoints/learned.json"  #: written after the adapter is saved, when only merging is left


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """The result of a training besides the adapter."""

    history: list[dict[str, float]]
    examples: int
    validation_loss: float | None
    trained: int
    parameters: int
    label_smoothing: float = 0.0


def run(config: Train, *, features: Path, select: Path, tune: Path, out: Path) -> dict[str, Any]:
    """Write `adapter/`, `servable/` (base and adapter merged), `loss.json`, `loss.png` and `report.md`.

    With the method `full` there is no adapter. A merged causal model is in bfloat16, an encoder in float32.

    `checkpoints/` is deleted after the training.

    Raises:
        TrainingError: if there is too little memory, there are no examples, the loss is no number, there is no
            gradient, or the merged model has lost the training.
        DiskFullError: if there is no room for the result.
    """
    base, best = get_base_path(select), json.loads((tune / "best.json").read_text(encoding="utf-8"))
    hyperparameters = apply_fixed_values(Hyperparameters(**best), config)
    require_disk(out, Path(base))
    truncation = count_truncated(features)
    processes = config.processes or max(1, torch.cuda.device_count())
    if not is_encoder(base):
        _require_memory(config, features, base, hyperparameters, processes)
    reuse_training(tune, config, hyperparameters.epochs, processes, out)
    result = _read_result(out)
    if result is None and processes > 1:
        result = run_parallel(processes, train_adapter, config, features, base, hyperparameters, out)
    elif result is None:
        result = train_adapter(config, features, base, hyperparameters, out)
    free_memory()  # of the model that was trained, before the merge
    if config.method != "full":
        save_merged(base, out / "adapter", config.method, out / "servable")
    if is_encoder(base):
        tokenizer = load_tokenizer(base)  # it is used and evaluated with texts cut as those of the training
        tokenizer.model_max_length = min(tokenizer.model_max_length, int(read_record(features).config["max_tokens"]))
        tokenizer.save_pretrained(out / "servable")
    merged_loss = _check_merged(out / "servable", features, result.validation_loss)
    steps = [row for row in result.history if "loss" in row]
    tokens, seconds = sum(row["tokens"] for row in steps), sum(row["seconds"] for row in steps)
    metrics = {
        "examples": result.examples,
        **truncation,
        "steps": int(steps[-1]["step"]),
        "first_loss": round(steps[0]["loss"], 4),
        "final_loss": round(sum(row["loss"] for row in steps[-5:]) / len(steps[-5:]), 4),
        "validation_loss": _round_loss(result.validation_loss),
        "merged_validation_loss": _round_loss(merged_loss),
        "tokens": int(tokens),
        "seconds": round(seconds, 1),
        "tokens_per_second": round(tokens / seconds, 1),
        "trained": result.trained,
        "parameters": result.parameters,
        **asdict(hyperparameters),
        "label_smoothing": result.label_smoothing,
        "processes": processes,
    }
    write_json(out / "loss.json", result.history)
    plot_loss(result.history, out / "loss.png")
    write_report(metrics, out / "report.md")
    shutil.rmtree(out / "checkpoints", ignore_errors=True)
    return metrics


def _require_memory(config: Train, features: Path, base: str, hyperparameters: Hyperparameters, processes: int) -> None:
    require_memory(
        ("train", "merge", "evaluate"),
        measure_shape(read_stored_config(Path(base))),
        MemorySettings(
            method="qlora" if config.method == "qlora" else "lora",
            rank=hyperparameters.rank,
            examples=min(config.micro_batch or hyperparameters.batch, max(1, hyperparameters.batch // processes)),
            tokens=int(read_record(features).config["max_tokens"]),
        ),
        read_machine_memory(),
    )


def train_adapter(
    config: Train, features: Path, base: str, hyperparameters: Hyperparameters, out: Path
) -> TrainingResult:
    """Train and write `adapter/`, or `servable/` if all weights train. Each of several processes does its share."""
    examples, held_out = read_offline(features, "train"), _read_validation(features)
    log.info("training on %d examples with %s", len(examples), hyperparameters)
    model = load_trainable_model(base, config, hyperparameters)
    history = fit(model, examples, config, hyperparameters, out, held_out=held_out)
    is_first_process = os.environ.get("RANK", "0") == "0"
    if is_first_process:
        model.save_pretrained(out / ("servable" if config.method == "full" else "adapter"))
    loss = compute_mean_loss(model, held_out) if held_out else None
    smoothing = choose_smoothing(model, len(examples))
    result = TrainingResult(history, len(examples), loss, **count_parameters(model), label_smoothing=smoothing)
    if is_first_process:
        (out / RESULT_FILE).parent.mkdir(exist_ok=True)
        write_json(out / RESULT_FILE, asdict(result))
    return result


def _read_result(out: Path) -> TrainingResult | None:
    """Return the result of an interrupted run's finished training; None if there is none."""
    if not (out / RESULT_FILE).is_file():
        return None
    log.info("trained already: going on with merging")
    return TrainingResult(**json.loads((out / RESULT_FILE).read_text(encoding="utf-8")))


def count_truncated(features: Path) -> dict[str, Any]:
    """Return the number and share of examples that were truncated to `features.max_tokens`. Warn if there are any."""
    metrics = read_record(features).metrics
    count, examples = int(metrics["truncated"]), int(metrics["examples"])
    if count:
        log.warning(
            "%d of %d examples (%.1f %%) were truncated: their context was longer than features.max_tokens allows",
            count,
            examples,
            100 * count / examples,
        )
    return {"truncated": count, "truncated_share": round(count / examples, 4)}


def _read_validation(features: Path) -> Sequence[Tokens]:
    return read_offline(features, "validation") if read_record(features).metrics["tokens"].get("validation") else []


def _check_merged(servable: Path, features: Path, expected: float | None) -> float | None:
    """Return the validation loss of the merged model, which must be close to that of the trained one (`expected`)."""
    if expected is None:
        return None
    loss = compute_mean_loss(load_model(servable), _read_validation(features))
    free_memory()
    if not abs(loss - expected) < MERGE_TOLERANCE:
        raise TrainingError(
            f"The merged model has a validation loss of {loss:.3f}, the model that was trained {expected:.3f}; merging "
            f"into {servable} lost what was learned."
        )
    return loss


def _round_loss(loss: float | None) -> float | None:
    return None if loss is None else round(loss, 4)
