"""The arms of `training.py`; its docstring tells them apart.

    python benchmarks/trainers.py ARM FOLDER

trains one arm on `inputs.json` of the folder and prints its figures as JSON.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as the product does: llmops/frame/machine.py

import torch  # noqa: E402
from peft import LoraConfig, get_peft_model  # noqa: E402
from transformers import Trainer, TrainingArguments, set_seed  # noqa: E402

from llmops.config import Train  # noqa: E402
from llmops.data.features.tokenize import Tokens  # noqa: E402
from llmops.model.base.load import load_model, load_tokenizer, make_nf4_config  # noqa: E402
from llmops.model.base.packing import compute_mean_loss  # noqa: E402
from llmops.model.training.fit import fit  # noqa: E402
from llmops.model.training.qlora import Hyperparameters, load_trainable_model  # noqa: E402

CONFIG = Train()
FOUND = Hyperparameters(learning_rate=5e-4, rank=16, batch=8, epochs=1)
WIDTH = 512  #: tokens that the classic recipe pads to
MIB = 2**20

Example = dict[str, Any]
Outcome = tuple[Any, int, float]  #: the trained model, its steps, the seconds they took


def run_arm(arm: str, folder: Path) -> dict[str, float]:
    """Train and measure, in this process."""
    inputs = json.loads((folder / "inputs.json").read_text())
    train, held_out = ([Tokens(*row) for row in inputs[name]] for name in ("train", "held_out"))
    with tempfile.TemporaryDirectory() as out:
        model, steps, seconds = ARMS[arm](inputs["base"], train, Path(out))
    if torch.cuda.is_available():
        peak = torch.cuda.max_memory_allocated() / MIB
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    tokens = sum(len(e.token_ids) for e in train)
    return {
        "tokens/s": tokens / seconds,
        "peak MiB": peak,
        "loss": compute_mean_loss(model, held_out),
        "steps": steps,
        "tokens": tokens,
        "seconds": seconds,
    }


def ours(base: str, train: list[Tokens], out: Path) -> Outcome:
    """The stage's own training; it writes its checkpoints."""
    model = load_trainable_model(base, CONFIG, FOUND)
    started = time.perf_counter()
    history = fit(model, train, CONFIG, FOUND, out)
    return model, int(history[-1]["step"]), time.perf_counter() - started


def adapter() -> LoraConfig:
    """The adapter that every arm trains."""
    return LoraConfig(r=FOUND.rank, lora_alpha=2 * FOUND.rank, target_modules="all-linear", task_type="CAUSAL_LM")


def timed(trainer: Trainer) -> Outcome:
    """Let a peer train."""
    started = time.perf_counter()
    trainer.train()
    return trainer.model, trainer.state.global_step, time.perf_counter() - started


def padded(base: str, train: list[Tokens], out: Path, width: int) -> Outcome:
    """transformers' `Trainer` on examples padded to `width` tokens, or to the longest of a batch if 0."""

    def collate(rows: list[Example]) -> dict[str, torch.Tensor]:
        to = width or max(len(row["input_ids"]) for row in rows)

        def column(name: str, pad: int) -> torch.Tensor:
            return torch.tensor([row[name] + [pad] * (to - len(row[name])) for row in rows])

        return {
            "input_ids": column("input_ids", 0),
            "attention_mask": column("attention_mask", 0),
            "labels": column("labels", -100),
        }

    rows = [
        {
            "input_ids": e.token_ids,
            "attention_mask": [1] * len(e.token_ids),
            "labels": [-100] * e.prompt_tokens + e.token_ids[e.prompt_tokens :],
        }
        for e in train
    ]
    arguments = TrainingArguments(per_device_train_batch_size=FOUND.batch, remove_unused_columns=False, **common(out))
    set_seed(CONFIG.seed)
    model = get_peft_model(load_model(base, make_nf4_config()), adapter())
    return timed(Trainer(model=model, args=arguments, train_dataset=rows, data_collator=collate))


def trl(base: str, train: list[Tokens], out: Path, checkpointing: bool) -> Outcome:
    """TRL's `SFTTrainer`, packing into rows of as many tokens as a batch of the other arms has."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    mean = sum(len(e.token_ids) for e in train) / len(train)
    longest = max(len(e.token_ids) for e in train)
    rows = [
        {
            "input_ids": e.token_ids,
            "completion_mask": [int(i >= e.prompt_tokens) for i in range(len(e.token_ids))],
        }
        for e in train
    ]
    arguments = SFTConfig(
        packing=True,
        max_length=max(longest, round(mean * FOUND.batch)),
        per_device_train_batch_size=1,
        completion_only_loss=True,
        gradient_checkpointing=checkpointing,
        **common(out),
    )
    set_seed(CONFIG.seed)
    return timed(
        SFTTrainer(
            model=load_model(base, make_nf4_config()),
            args=arguments,
            train_dataset=Dataset.from_list(rows),
            processing_class=load_tokenizer(base),
            peft_config=adapter(),
        )
    )


def common(out: Path) -> dict[str, Any]:
    """What all peers are told alike."""
    cuda = torch.cuda.is_available()
    return {
        "output_dir": str(out),
        "learning_rate": FOUND.learning_rate,
        "num_train_epochs": FOUND.epochs,
        "warmup_steps": FOUND.warmup,
        "lr_scheduler_type": "cosine",
        "max_grad_norm": CONFIG.max_grad_norm,
        "optim": "paged_adamw_8bit" if cuda else "adamw_torch_fused",
        "bf16": True,
        "use_cpu": not cuda,
        "seed": CONFIG.seed,
        "save_strategy": "no",
        "logging_steps": 1,
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": cuda,
    }


ARMS: dict[str, Callable[[str, list[Tokens], Path], Outcome]] = {
    "ours": ours,
    "padded to 512": partial(padded, width=WIDTH),
    "padded to the longest": partial(padded, width=0),
    "TRL packing": partial(trl, checkpointing=False),
    "TRL packing, checkpointing": partial(trl, checkpointing=True),
}

if __name__ == "__main__":
    print(json.dumps(run_arm(sys.argv[1], Path(sys.argv[2]))))
