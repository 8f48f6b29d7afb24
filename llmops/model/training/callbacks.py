"""Callbacks of a training: progress, dead adapters, the best adapter so far."""

import logging
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peft import PeftModel, set_peft_model_state_dict
from safetensors.torch import load_file
from transformers import TrainerCallback, TrainerControl, TrainerState

from llmops.frame.errors import TrainingError
from llmops.model.base.load import Model

log = logging.getLogger(__name__)

PROGRESS_S = 5.0  #: seconds between two lines of progress


class ProgressLogger(TrainerCallback):
    """Logs steps, loss, tokens/s and time left; stops a training at its pause."""

    def __init__(self, pause: int) -> None:
        self.pause = pause
        self.steps, self.tokens, self.seconds = 0, 0.0, 0.0
        self.last = 0.0

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Save and stop at the step of the pause."""
        if state.global_step == self.pause:
            control.should_save = control.should_training_stop = True

    def on_log(
        self, args: Any, state: TrainerState, control: TrainerControl, logs: Mapping[str, float] | None = None, **_: Any
    ) -> None:
        """Report the progress from time to time."""
        if not logs or "loss" not in logs:
            return
        self.steps += 1
        self.tokens += logs["tokens"]
        self.seconds += logs["seconds"]
        now = time.monotonic()
        if not state.is_world_process_zero or (
            now - self.last < PROGRESS_S and self.steps > 1 and state.global_step < state.max_steps
        ):
            return
        self.last = now
        log.info(
            "step %d/%d  loss %.3f  %.0f tokens/s  %.0f s left",
            state.global_step,
            state.max_steps,
            logs["loss"],
            self.tokens / self.seconds,
            self.seconds / self.steps * (state.max_steps - state.global_step),
        )


class DeadAdapterCheck(TrainerCallback):
    """Stops a training in which most adapters learn nothing."""

    def on_pre_optimizer_step(
        self, args: Any, state: TrainerState, control: TrainerControl, model: Any = None, **_: Any
    ) -> None:
        """Raise `TrainingError` if most adapters have no gradient."""
        # A's gradient is zero until B has changed, so B's is checked. A layer with repacked weights passes no gradient
        # back, but the residual stream does: 2 of 7 adapters of a Llama layer still learn, and the loss falls a little.
        grads = [p.grad for name, p in model.named_parameters() if p.requires_grad and "lora_B" in name]
        dead = sum(grad is None or not bool(grad.any()) for grad in grads)
        if 2 * dead > len(grads):
            raise TrainingError(
                f"The gradient norm of {dead} of {len(grads)} adapters is zero at step {state.global_step + 1}: they "
                "would learn nothing. Was the quantised base used in evaluation mode? Train on a freshly loaded one."
            )


class BestAdapterKeeper(TrainerCallback):
    """Keeps the adapter with the lowest validation loss and ends a training that has not lowered it for long.

    Its state is the trainer's history, which every checkpoint holds: a resumed training decides as it would have.
    """

    def __init__(self, folder: Path, patience: int) -> None:
        self.folder = folder
        self.patience = patience

    def on_evaluate(self, args: Any, state: TrainerState, control: TrainerControl, model: Any = None, **_: Any) -> None:
        """Save the adapter if its validation loss is the lowest so far."""
        losses = [row["eval_loss"] for row in state.log_history if "eval_loss" in row]
        lowest = losses.index(min(losses))
        if lowest == len(losses) - 1:
            if state.is_world_process_zero:
                fresh = self.folder.with_name("best.new")
                model.save_pretrained(fresh)
                shutil.rmtree(self.folder, ignore_errors=True)
                fresh.rename(self.folder)
        elif len(losses) - 1 - lowest >= self.patience:
            log.info("stopping: the validation loss has been lowest %d looks ago", len(losses) - 1 - lowest)
            control.should_training_stop = True

    def restore(self, model: Model) -> None:
        """Put the best adapter back into the model that trained."""
        if isinstance(model, PeftModel):
            set_peft_model_state_dict(model, load_file(self.folder / "adapter_model.safetensors"))
        else:
            model.load_state_dict(load_file(self.folder / "model.safetensors"))
