"""The hardware of this machine, and the training settings that follow from it: one function decides."""

import logging
from dataclasses import dataclass

import psutil
import torch
from transformers.utils.import_utils import is_flash_attn_2_available

from llmops.frame.machine import GIB
from llmops.model.training.attention import SEGMENTS

log = logging.getLogger(__name__)

USABLE = 0.8  #: share of the free memory that activations may take; the rest is for optimiser, kernels, fragments


@dataclass(frozen=True, slots=True)
class Hardware:
    """The machine, once the model is loaded."""

    cuda: bool
    flash_attention: bool  #: the package flash-attn is installed and the GPU is an Ampere or newer
    free_bytes: int  #: of the GPU, or of the machine without one


@dataclass(frozen=True, slots=True)
class Settings:
    """How a training runs on a machine; none of it changes what is learned but for rounding."""

    attention: str  #: for `set_attn_implementation`; empty keeps the model's own
    optimizer: str  #: for `TrainingArguments.optim`
    checkpointing: bool  #: compute activations twice instead of keeping them


def detect_hardware() -> Hardware:
    """Return the hardware of this machine, and its memory as it is now."""
    if torch.cuda.is_available():
        flash = is_flash_attn_2_available() and torch.cuda.get_device_capability()[0] >= 8
        return Hardware(True, flash, torch.cuda.mem_get_info()[0])
    return Hardware(False, False, psutil.virtual_memory().available)


def choose_settings(hardware: Hardware, activations: int, attention: str = "sdpa") -> Settings:
    """Choose how a training runs on this hardware.

    With a GPU: flash attention where it is installed, and AdamW with 8-bit states that may be paged out (QLoRA,
    arXiv:2305.14314). Without: attention an example at a time, and torch's fused AdamW. Only a model that uses `sdpa`
    now gets another `attention`. Activations are computed twice only when `activations`, the bytes that the largest
    batch keeps for its backward pass (`memory.activations`), would not fit, since that takes a third more time.
    """
    wanted = "" if attention != "sdpa" else SEGMENTS
    if hardware.cuda:
        wanted = "flash_attention_2" if hardware.flash_attention and attention == "sdpa" else ""
    checkpointing = activations > USABLE * hardware.free_bytes
    if checkpointing:
        log.warning(
            "activations are computed twice: a batch keeps %.1f GiB of %.1f; a smaller train.micro_batch is faster",
            activations / GIB,
            hardware.free_bytes / GIB,
        )
    return Settings(wanted, "paged_adamw_8bit" if hardware.cuda else "adamw_torch_fused", checkpointing)
