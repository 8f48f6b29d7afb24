"""The model that trains (a frozen base and a LoRA adapter), and what becomes of it: merged, quantised, saved.

QLoRA: arXiv:2305.14314. LoRA: arXiv:2106.09685.
"""

from __future__ import annotations

import gc
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, set_seed

from llmops.config import Train
from llmops.model.load import Model, load_model, load_tokenizer, nf4


@dataclass(frozen=True, slots=True)
class Hyperparameters:
    """What `tune` searches for."""

    learning_rate: float
    rank: int
    batch: int  #: examples per optimiser step


def trainable(base: str, config: Train, found: Hyperparameters) -> Model:
    """A fresh base, quantised when the method is `qlora`, with a new adapter; in train mode.

    A base is never reused between trainings: after a forward pass in evaluation mode, NF4 layers on a CPU give zero
    gradients. `prepare_model_for_kbit_training` is left out on purpose, as it casts everything unquantised to float32;
    freezing the base and keeping the adapter in float32 is what matters.
    """
    model = load_model(base, nf4() if config.method == "qlora" else None)
    set_seed(config.seed)
    adapter = LoraConfig(
        r=found.rank,
        lora_alpha=config.alpha or 2 * found.rank,
        lora_dropout=config.dropout,
        target_modules=list(config.target_modules) or "all-linear",
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, adapter).train()


def merge(base: str, adapter: Path) -> Model:
    """The base with its adapter merged in, at full precision and never in 4 bits, cast to bfloat16."""
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    return PeftModel.from_pretrained(plain, str(adapter)).merge_and_unload().to(torch.bfloat16)


def save_servable(base: str, adapter: Path, kind: str, out: Path) -> None:
    """Write the model that is served: merged, quantised as `kind` (nf4 or bf16), with its tokenizer."""
    merged = merge(base, adapter)
    if kind == "bf16":
        merged.save_pretrained(out)
    else:
        whole = out.with_name(f".{out.name}.merged")
        merged.save_pretrained(whole)
        del merged
        gc.collect()
        quantised = load_model(whole, nf4())
        quantised.save_pretrained(out)
        shutil.rmtree(whole)
    load_tokenizer(base).save_pretrained(out)


def trained_parameters(model: Any) -> dict[str, int]:
    """How many parameters train, and how many there are (quantised ones counted unpacked)."""
    training, total = model.get_nb_trainable_parameters()
    return {"trained": int(training), "parameters": int(total)}
