"""One training run through transformers' `Trainer`: packed batches, checkpoints, errors instead of silent failure."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from llmops.config import Train
from llmops.errors import TrainingError
from llmops.features.tokenize import Tokens
from llmops.model.load import Model
from llmops.model.packing import answer_loss, pack
from llmops.model.qlora import Hyperparameters

log = logging.getLogger(__name__)

COMPLETE = "complete"  #: marker file, written last into a checkpoint: without it the checkpoint is not used


def fit(
    model: Model, examples: Sequence[Tokens], config: Train, found: Hyperparameters, out: Path, max_steps: int = 0
) -> list[dict[str, float]]:
    """Train `model` in place, going on from the newest whole checkpoint under `out/checkpoints`.

    Args:
        model: from `qlora.trainable`.
        examples: the training split.
        config: epochs, warm-up, clipping, seed, checkpoint interval.
        found: learning rate and batch.
        out: folder of the artifact.
        max_steps: end after this many optimiser steps and write no checkpoint; 0 trains `config.epochs`.

    Returns:
        The history: a row per optimiser step with step, loss (nats per answer token), grad_norm, learning_rate.

    Raises:
        TrainingError: on no examples, a loss that is no number, or a gradient of zero.
    """
    if not examples:
        raise TrainingError("There is no training example; look at the annotate and features artifacts.")
    arguments = TrainingArguments(
        output_dir=str(out / "checkpoints"),
        per_device_train_batch_size=found.batch,
        learning_rate=found.learning_rate,
        num_train_epochs=config.epochs,
        max_steps=max_steps or -1,
        warmup_steps=config.warmup,
        lr_scheduler_type="cosine",
        max_grad_norm=config.max_grad_norm,
        weight_decay=0.0,
        seed=config.seed,
        data_seed=config.seed,
        save_strategy="no" if max_steps else "steps",
        save_steps=config.checkpoint_steps,
        save_total_limit=2,
        logging_steps=1,
        logging_nan_inf_filter=False,
        eval_strategy="no",
        report_to="none",
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),
    )
    tokens = sum(len(e.token_ids) for e in examples) / len(examples) * found.batch
    trainer = PackedTrainer(
        model=model,
        args=arguments,
        train_dataset=_Examples(examples),
        data_collator=pack,
        callbacks=[_Watch(tokens)],
    )
    trainer.remove_callback(PrinterCallback)
    checkpoint = newest_checkpoint(out / "checkpoints")
    if checkpoint:
        log.info("resuming from %s", checkpoint)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    keys = ("step", "loss", "grad_norm", "learning_rate")
    return [{k: float(row[k]) for k in keys} for row in trainer.state.log_history if "loss" in row]


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that was written whole."""
    whole = [p.parent for p in folder.glob(f"checkpoint-*/{COMPLETE}")]
    return max(whole, key=lambda p: int(p.name.split("-")[1]), default=None)


class PackedTrainer(Trainer):
    """A `Trainer` whose loss is the mean over the batch's answer tokens, and whose loss must be a number."""

    def compute_loss(
        self, model: Any, inputs: dict[str, torch.Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """Mean cross-entropy per answer token of the packed batch."""
        loss = answer_loss(model, inputs) / len(inputs["labels"])
        if not math.isfinite(float(loss.detach())):
            raise TrainingError(
                f"The loss is {float(loss.detach())} at step {self.state.global_step + 1}; "
                "lower the learning rate (train.learning_rate) or look for damaged examples."
            )
        return loss


class _Examples(Dataset[Tokens]):
    def __init__(self, examples: Sequence[Tokens]) -> None:
        self.examples = examples

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Tokens:
        return self.examples[index]


class _Watch(TrainerCallback):
    """Progress with speed and time left; an error when nothing would be learned; the mark of a whole checkpoint."""

    def __init__(self, tokens_per_step: float) -> None:
        self.tokens = tokens_per_step
        self.start = (0.0, 0)
        self.last = 0.0

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.start = (time.monotonic(), state.global_step)

    def on_pre_optimizer_step(
        self, args: Any, state: TrainerState, control: TrainerControl, model: Any = None, **_: Any
    ) -> None:
        # A's gradient is zero until B has moved, so B's tells. A layer whose weights were repacked passes nothing back,
        # but the residual stream does: 2 of 7 adapters of a Llama layer still learn, and the loss still falls a little.
        grads = [p.grad for name, p in model.named_parameters() if p.requires_grad and "lora_B" in name]
        dead = sum(grad is None or not bool(grad.any()) for grad in grads)
        if 2 * dead > len(grads):
            raise TrainingError(
                f"The gradient norm of {dead} of {len(grads)} adapters is zero at step {state.global_step + 1}: they "
                "would learn nothing. Was the quantised base used in evaluation mode? Train on a freshly loaded one."
            )

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, logs: Any = None, **_: Any) -> None:
        now, steps = time.monotonic(), state.global_step - self.start[1]
        if "loss" not in (logs or {}) or not steps or (now - self.last < 5 and state.global_step < state.max_steps):
            return
        self.last = now
        pace = (now - self.start[0]) / steps
        log.info(
            "step %d/%d  loss %.3f  %.0f tokens/s  %.0f s left",
            state.global_step,
            state.max_steps,
            logs["loss"],
            self.tokens / pace,
            pace * (state.max_steps - state.global_step),
        )

    def on_save(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        (Path(args.output_dir) / f"checkpoint-{state.global_step}" / COMPLETE).touch()
