"""One training run through transformers' `Trainer`: packed batches, checkpoints, errors instead of silent failure."""

import logging
import math
import os
import random
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from heapq import nlargest
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch.utils.data import Sampler
from transformers import PrinterCallback, Trainer, TrainingArguments

from llmops.config import Train
from llmops.data.features.examples import count_tokens
from llmops.data.features.tokenize import Tokens
from llmops.frame.errors import DiskFullError, TrainingError
from llmops.model.base.encoder import choose_smoothing, is_classifier
from llmops.model.base.load import Model
from llmops.model.base.memory import estimate_activations
from llmops.model.base.packing import compute_answer_loss, compute_mean_loss, make_batch
from llmops.model.training.callbacks import BestAdapterKeeper, DeadAdapterCheck, ProgressLogger
from llmops.model.training.hardware import choose_settings, detect_hardware
from llmops.model.training.qlora import Hyperparameters, apply_fixed_values

log = logging.getLogger(__name__)

Batch = dict[str, torch.Tensor]
CHUNK = 50  #: batches of an encoder's training whose texts are sorted by length together
COMPLETE_MARKER = "complete"  #: file that is written last into a checkpoint; one without it is not used
MAX_CHECKPOINTS = 2  #: newest checkpoints that stay: if a kill leaves the last one incomplete, the one before is used


def fit(
    model: Model,
    examples: Sequence[Tokens],
    config: Train,
    hyperparameters: Hyperparameters,
    out: Path,
    max_steps: int = 0,
    pause: int = 0,
    held_out: Sequence[Tokens] = (),
) -> list[dict[str, float]]:
    """Train `model` in place. Continue from the newest complete checkpoint under `out/checkpoints`.

    Every process of a data-parallel training calls it with the same arguments and takes its share of each batch. Values
    that the configuration fixes replace those of `hyperparameters`. With `config.patience` the model ends with the
    adapter that was best on `held_out`, the validation split.

    With `max_steps` the training ends after so many optimiser steps and writes no checkpoint. With `pause` it writes a
    checkpoint after this step and returns. The next call continues from there with the same result as without a pause,
    because the schedule of the learning rate spans all steps.

    Returns:
        The history: a row per optimiser step with step, loss (nats per answer token), grad_norm, learning_rate, tokens
        (none of them padding) and seconds; with `held_out`, rows with step and validation_loss between them.

    Raises:
        TrainingError: on no examples, a loss that is no number, or a gradient of zero.
        DiskFullError: if a checkpoint cannot be written.
    """
    if not examples:
        raise TrainingError("There is no training example; look at the annotate and features artifacts.")
    checkpoints, hyperparameters = out / "checkpoints", apply_fixed_values(hyperparameters, config)
    arguments = _make_arguments(model, examples, config, hyperparameters, checkpoints, max_steps, bool(held_out))
    best = BestAdapterKeeper(checkpoints / "best", config.patience) if config.patience and held_out else None
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(out / "logs")  # else its callback writes beside the checkpoints
    trainer = PackedTrainer(
        model=model,
        args=arguments,
        examples=examples,
        held_out=held_out,
        callbacks=[ProgressLogger(pause), DeadAdapterCheck(), *([best] if best else [])],
    )
    trainer.remove_callback(PrinterCallback)
    if trainer.is_world_process_zero():  # half-written checkpoints would count among those that are kept
        for incomplete in (path for path in checkpoints.glob("checkpoint-*") if not (path / COMPLETE_MARKER).exists()):
            shutil.rmtree(incomplete)
    trainer.accelerator.wait_for_everyone()
    checkpoint = find_newest_checkpoint(checkpoints)
    if checkpoint:
        log.info("resuming from %s", checkpoint)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    trainer.accelerator.wait_for_everyone()
    if best and best.folder.is_dir() and not pause:
        best.restore(model)
    keys = ("step", "loss", "grad_norm", "learning_rate", "tokens", "seconds")
    return [
        {k: float(row[k]) for k in keys}
        if "loss" in row
        else {"step": float(row["step"]), "validation_loss": row["eval_loss"]}
        for row in trainer.state.log_history
        if "loss" in row or "eval_loss" in row
    ]


def _make_arguments(
    model: Model,
    examples: Sequence[Tokens],
    config: Train,
    hyperparameters: Hyperparameters,
    checkpoints: Path,
    max_steps: int,
    validate: bool,
) -> TrainingArguments:
    cuda = torch.cuda.is_available()
    arguments = TrainingArguments(
        output_dir=str(checkpoints),
        learning_rate=hyperparameters.learning_rate,
        num_train_epochs=hyperparameters.epochs,
        max_steps=max_steps or -1,
        warmup_steps=hyperparameters.warmup,
        lr_scheduler_type="cosine",
        max_grad_norm=config.max_grad_norm,
        weight_decay=0.0,
        seed=config.seed,
        data_seed=config.seed,
        save_strategy="no" if max_steps else "steps",
        save_steps=config.checkpoint_steps,
        save_total_limit=MAX_CHECKPOINTS,
        logging_steps=1,
        logging_nan_inf_filter=False,
        eval_strategy="steps" if validate and config.validate_steps else "no",
        eval_steps=config.validate_steps or None,
        report_to=list(config.report_to) or "none",
        remove_unused_columns=False,
        dataloader_pin_memory=cuda,
        disable_tqdm=True,
        use_cpu=not cuda,
        ddp_find_unused_parameters=False,
    )
    share, rest = divmod(hyperparameters.batch, arguments.world_size)
    if rest:
        raise TrainingError(
            f"A batch of {hyperparameters.batch} examples cannot be shared by {arguments.world_size} processes; "
            "set train.batch to a multiple."
        )
    micro = min(config.micro_batch or share, share)
    if share % micro:
        raise TrainingError(f"train.micro_batch, {micro}, must divide a process's share of the batch, {share}.")
    largest = [examples[n] for n in nlargest(micro, range(len(examples)), key=count_tokens(examples).__getitem__)]
    if not is_classifier(model):  # the texts of an encoder have been cut
        _require_context(model, largest[0])
    tokens = sum(len(e.token_ids) for e in largest)
    need = estimate_activations(model.config, tokens, tokens - sum(e.prompt_tokens for e in largest))
    settings = choose_settings(detect_hardware(), need, model.config._attn_implementation)
    if settings.attention and not is_classifier(model):
        model.get_base_model().set_attn_implementation(settings.attention)
    arguments.optim = settings.optimizer
    arguments.activation_checkpointing = settings.checkpointing
    arguments.per_device_train_batch_size = micro
    arguments.gradient_accumulation_steps = share // micro
    arguments._n_gpu = min(arguments.n_gpu, 1)  # one process never splits a packed row over several GPUs
    return arguments


def _require_context(model: Model, longest: Tokens) -> None:
    limit = getattr(model.config, "max_position_embeddings", None)
    if limit and len(longest.token_ids) > limit:
        raise TrainingError(
            f"Example {longest.id} has {len(longest.token_ids)} tokens, the base model's context is {limit}; lower "
            "features.max_tokens."
        )


class LengthSampler(Sampler[int]):
    """An order of the examples in which a batch has texts of similar lengths, so that little is padded.

    It differs from epoch to epoch, and is the same in a training that is resumed.
    """

    def __init__(self, lengths: Sequence[int], batch: int, seed: int) -> None:
        self.lengths, self.batch, self.seed, self.epoch = lengths, batch, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch; the data loader calls it."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        rng = random.Random(f"{self.seed} {self.epoch}")
        order = rng.sample(range(len(self.lengths)), len(self.lengths))
        chunk = CHUNK * self.batch
        chunks = (order[i : i + chunk] for i in range(0, len(order), chunk))
        alike = [n for some in chunks for n in sorted(some, key=self.lengths.__getitem__)]
        batches = [alike[i : i + self.batch] for i in range(0, len(alike), self.batch)]
        last = batches.pop() if len(batches[-1]) < self.batch else []  # else it would shift all others
        yield from chain(*rng.sample(batches, len(batches)), last)


class PackedTrainer(Trainer):
    """A `Trainer` whose loss is the mean over all answer tokens of an optimiser step, and must be a number.

    The mean is over the answer tokens of all processes and all micro-batches, so that neither changes the result.
    """

    def __init__(self, *, examples: Sequence[Tokens], held_out: Sequence[Tokens], **kwargs: Any) -> None:
        super().__init__(
            train_dataset=examples, eval_dataset=held_out, data_collator=partial(make_batch, kwargs["model"]), **kwargs
        )
        self.loss_is_scaled_for_ga = True
        self.held_out, self.lengths = held_out, count_tokens(examples)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        if is_classifier(self.model):  # its batches are padded
            batch = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
            return LengthSampler(self.lengths, batch, self.args.seed)
        return super()._get_train_sampler(train_dataset)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Batch], num_batches: int, device: torch.device
    ) -> tuple[list[Batch], torch.Tensor]:
        """Return the micro-batches of one optimiser step, and how many answer tokens it has in all processes."""
        self._step_started = time.monotonic()
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        tokens = sum(
            int(b["attention_mask"].sum()) if "attention_mask" in b else b["input_ids"].numel() for b in batches
        )
        own_counts = [sum(len(b["labels"]) for b in batches), tokens]
        answers, all_tokens = self.accelerator.gather(torch.tensor([own_counts], device=device)).sum(dim=0)
        self._step_tokens = int(all_tokens)
        return batches, answers

    def compute_loss(
        self, model: Any, inputs: Batch, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """Return this micro-batch's part of the mean cross-entropy per answer token."""
        loss = compute_answer_loss(model, inputs, smoothing=choose_smoothing(model, len(self.lengths)))
        if not math.isfinite(float(loss.detach())):
            raise TrainingError(
                f"The loss is {float(loss.detach())} at step {self.state.global_step + 1}; "
                "lower the learning rate (train.learning_rate) or look for damaged examples."
            )
        # Gradients of processes are averaged, not added.
        scaled: torch.Tensor = loss * (self.accelerator.num_processes / num_items_in_batch)
        return scaled

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Measure the validation loss, without disturbing the training: see `packing.compute_mean_loss`."""
        metrics = {"eval_loss": compute_mean_loss(self.model, self.held_out)}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add to the row of an optimiser step its tokens, none of them padding, and its seconds."""
        if "loss" in logs:
            logs |= {"tokens": self._step_tokens, "seconds": round(time.monotonic() - self._step_started, 4)}
        super().log(logs, start_time)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        folder = Path(str(self.args.output_dir))
        with convert_disk_errors(folder):
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()  # each process writes its own random state
            if self.is_world_process_zero():
                (folder / f"checkpoint-{self.state.global_step}" / COMPLETE_MARKER).touch()


def find_newest_checkpoint(folder: Path) -> Path | None:
    """Return the newest complete checkpoint."""
    complete = [p.parent for p in folder.glob(f"checkpoint-*/{COMPLETE_MARKER}")]
    return max(complete, key=lambda p: int(p.name.split("-")[1]), default=None)


def require_disk(out: Path, base: Path) -> None:
    """Make sure that the disk has room for the result: merged model, adapter and checkpoints.

    Raises:
        DiskFullError: with the needed and the free bytes.
    """
    needed, free = 3 * sum(f.stat().st_size for f in base.rglob("*.safetensors")), shutil.disk_usage(out).free
    if free < needed:
        raise DiskFullError(
            f"Training needs about {needed / 1e9:.1f} GB on the disk of {out}, {free / 1e9:.1f} are free."
        )


@contextmanager
def convert_disk_errors(folder: Path) -> Iterator[None]:
    """Convert the errors of a full disk (torch, safetensors and Python each have their own) into `DiskFullError`."""
    try:
        yield
    # torch raises RuntimeError, with the reason in its text only
    except (OSError, RuntimeError, SafetensorError) as error:
        free = shutil.disk_usage(folder).free
        raise DiskFullError(
            f"A checkpoint could not be written to {folder}, where {free / 1e9:.1f} GB are free: {error}. Make room "
            "and run train again; it goes on from the last whole checkpoint."
        ) from error
