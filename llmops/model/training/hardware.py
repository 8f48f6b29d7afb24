"""The hardware of this machine, and the training settings that `choose_settings` derives from it."""

import logging
from dataclasses import dataclass

import psutil
import torch
from transformers.utils.import_utils import is_flash_attn_2_available

from llmops.frame.machine import GIB
from llmops.model.training.attention import SEGMENTS

log = logging.getLogger(__name__)

#: share of the free memory that activations may take; the rest is for optimiser, kernels, fragments
ACTIVATION_SHARE = 0.8


@dataclass(frozen=True, slots=True)
class Hardware:
    """The hardware of a machine on which the model is loaded."""

    cuda: bool
    flash_attention: bool  #: the package flash-attn is installed and the GPU is an Ampere or newer
    free_bytes: int  #: of the GPU, or of the machine without one


@dataclass(frozen=True, slots=True)
class TrainerSettings:
    """The settings of a training on this machine. They change the result only by rounding."""

    attention: str  #: for `set_attn_implementation`; empty keeps the model's own
    optimizer: str  #: for `TrainingArguments.optim`
    checkpointing: bool  #: compute activations twice instead of keeping them


def detect_hardware() -> Hardware:
    """Return the hardware of this machine, and its free memory."""
    if torch.cuda.is_available():
        flash = is_flash_attn_2_available() and torch.cuda.get_device_capability()[0] >= 8
        return Hardware(True, flash, torch.cuda.mem_get_info()[0])
    return Hardware(False, False, psutil.virtual_memory().available)


def choose_settings(hardware: Hardware, activations: int, attention: str = "sdpa") -> TrainerSettings:
    """Choose how a training runs on this hardware.

    With a GPU: flash attention where it is installed, and AdamW with 8-bit states that may be paged out (QLoRA,
    arXiv:2305.14314). Without: attention an example at a time, and torch's fused AdamW. Only a model that uses `sdpa`
    now gets another `attention`. Activations are computed twice, which takes a third more time, only if `activations`
    would not fit: the bytes that the largest batch keeps for its backward pass (`memory.estimate_activations`).
    """
    chosen_attention = "" if attention != "sdpa" else SEGMENTS
    if hardware.cuda:
        chosen_attention = "flash_attention_2" if hardware.flash_attention and attention == "sdpa" else ""
    checkpointing = activations > ACTIVATION_SHARE * hardware.free_bytes
    if checkpointing:
        log.warning(
            "activations are computed twice: a batch keeps %.1f GiB of %.1f; a smaller train.micro_batch is faster",
            activations / GIB,
            hardware.free_bytes / GIB,
        )
    return TrainerSettings(
        chosen_attention, "paged_adamw_8bit" if hardware.cuda else "adamw_torch_fused", checkpointing
    )
