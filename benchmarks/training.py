"""Training: useful tokens/s, peak memory and held-out loss of ours and of three peers, on the same data and steps.

Every arm trains the same adapter on the same base in NF4 with the examples of `examples/support_bot/`, eight of them a
step, in a process of its own, with the same seed. Useful tokens are those of the examples, prompts included; padding
is not. The peers: transformers' `Trainer` with every example padded to 512 tokens, as tutorials have it; the same,
padded to the longest of a batch; and TRL's `SFTTrainer`, which packs whole examples into rows of as many tokens as
eight examples have, with and without the gradient checkpointing that is its default. All count loss on answers only
and compute in bfloat16.

Last, ours and the padding recipe on the shape of a Llama of 1.1 B parameters with random weights, where there is a GPU;
without one the same two arms run on a tiny shape, and the table says so.

    pip install --group bench
    python benchmarks/training.py [--quick] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # as the product does: llmops/machine.py

import torch  # noqa: E402
from peft import LoraConfig, get_peft_model  # noqa: E402
from report import finish  # noqa: E402
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments, set_seed  # noqa: E402

from llmops.config import Train, load  # noqa: E402
from llmops.features.examples import read_offline  # noqa: E402
from llmops.features.tokenize import Tokens  # noqa: E402
from llmops.model.base.load import load_model, load_tokenizer, nf4  # noqa: E402
from llmops.model.base.packing import mean_loss  # noqa: E402
from llmops.model.training.fit import fit  # noqa: E402
from llmops.model.training.qlora import Hyperparameters, trainable  # noqa: E402
from llmops.pipeline import STAGES, run_stage  # noqa: E402
from llmops.records import base_path  # noqa: E402

EXAMPLE = Path(__file__).parents[1] / "examples" / "support_bot" / "config.yaml"
DAY = "2026-01-31"
CONFIG = Train(epochs=1)
FOUND = Hyperparameters(learning_rate=5e-4, rank=16, batch=8)
WIDTH = 512  #: tokens that the classic recipe pads to
MIB = 2**20

Example = dict[str, Any]
Outcome = tuple[Any, int, float]  #: the trained model, its steps, the seconds they took


def main() -> None:
    """Run every arm in its own process, in turns, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one round of 24 examples, not three of 120")
    parser.add_argument("--json", action="store_true", help="the last line is one JSON object")
    parser.add_argument("--arm", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.arm:
        print(json.dumps(run_arm(options.arm, options.folder)))
        return
    rounds, count = (1, 24) if options.quick else (3, 120)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder / "example", count)
        prepare_shape(folder / "shape")
        found: dict[str, list[dict[str, float]]] = {}
        for _ in range(rounds):
            for arm in ARMS:
                found.setdefault(arm, []).append(in_process(arm, folder / "example"))
        for arm in ("ours", "padded to 512"):
            found[f"{shape_name()}: {arm}"] = [in_process(arm, folder / "shape")]
    arms = {arm: summary(runs) for arm, runs in found.items()}
    speed, memory, loss = ({arm: f[key] for arm, f in arms.items()} for key in ("tokens/s", "peak MiB", "loss"))
    ratios = {f"useful tokens/s, ours over {arm}": speed["ours"] / speed[arm] for arm in ARMS if arm != "ours"}
    ratios |= {f"peak memory, ours over {arm}": memory["ours"] / memory[arm] for arm in ARMS if arm != "ours"}
    ratios |= {f"held-out loss, ours over {arm}": loss["ours"] / loss[arm] for arm in ARMS if arm != "ours"}
    small = [f"{shape_name()}: {arm}" for arm in ("ours", "padded to 512")]
    ratios[f"{shape_name()}: useful tokens/s, ours over padded to 512"] = speed[small[0]] / speed[small[1]]
    ratios[f"{shape_name()}: peak memory, ours over padded to 512"] = memory[small[0]] / memory[small[1]]
    if not torch.cuda.is_available():
        print(
            "\nThere is no GPU here: the arms on a random Llama ran a tiny shape on the CPU and only prove the script."
        )
    finish("training", arms, ratios, options.json, ("torch", "transformers", "peft", "bitsandbytes", "trl"))


def prepare(folder: Path, count: int) -> None:
    """Run the pipeline's stages up to `features` on the example; keep the base's path and `count` examples."""
    config = load(EXAMPLE, {"home": str(folder / "home")}, {})
    found: dict[str, Path] = {}
    for name in STAGES:
        found[name] = run_stage(name, config, DAY, {i: found[i] for i in STAGES[name].inputs})
        if name == "features":
            break
    splits = {split: list(read_offline(found["features"], split)) for split in ("train", "validation")}
    random.Random(0).shuffle(splits["train"])
    write_inputs(folder, base_path(found["select"]), splits["train"][:count], splits["validation"])


def prepare_shape(folder: Path) -> None:
    """A Llama of random weights and random examples as long as the support bot's."""
    cuda = torch.cuda.is_available()
    config = (
        LlamaConfig(  # TinyLlama's shape
            vocab_size=32000,
            hidden_size=2048,
            intermediate_size=5632,
            num_hidden_layers=22,
            num_attention_heads=32,
            num_key_value_heads=4,
        )
        if cuda
        else LlamaConfig(
            vocab_size=4096,
            hidden_size=128,
            intermediate_size=384,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
        )
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder / "base")
    rng = random.Random(0)
    examples = [
        Tokens(str(i), [rng.randrange(3, config.vocab_size) for _ in range(rng.randint(50, 140))], 40)
        for i in range(512 if cuda else 32)
    ]
    write_inputs(folder, str(folder / "base"), examples, examples[:8])


def shape_name() -> str:
    """What the arms on random weights ran on."""
    return f"Llama 1.1 B on {torch.cuda.get_device_name()}" if torch.cuda.is_available() else "tiny Llama on CPU"


def write_inputs(folder: Path, base: str, train: Sequence[Tokens], held_out: Sequence[Tokens]) -> None:
    """What every arm reads."""
    folder.mkdir(exist_ok=True)
    rows = {
        name: [(e.id, e.token_ids, e.prompt_tokens) for e in part]
        for name, part in (("train", train), ("held_out", held_out))
    }
    (folder / "inputs.json").write_text(json.dumps({"base": base, **rows}))


def in_process(arm: str, folder: Path) -> dict[str, float]:
    """The figures of one arm, from a process of its own."""
    command = [sys.executable, __file__, "--arm", arm, "--folder", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONWARNINGS": "ignore"})
    if done.returncode:
        sys.exit(f"The arm {arm!r} failed:\n{done.stderr[-3000:]}")
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    print(f"{arm}: {figures}", flush=True)
    return figures


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
        "loss": mean_loss(model, held_out),
        "steps": steps,
        "tokens": tokens,
        "seconds": seconds,
    }


def ours(base: str, train: list[Tokens], out: Path) -> Outcome:
    """The stage's own training; it writes its checkpoints."""
    model = trainable(base, CONFIG, FOUND)
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
    model = get_peft_model(load_model(base, nf4()), adapter())
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
            model=load_model(base, nf4()),
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
        "num_train_epochs": CONFIG.epochs,
        "warmup_steps": CONFIG.warmup,
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


def summary(runs: Sequence[dict[str, float]]) -> dict[str, float]:
    """The median of every figure, and the slowest and fastest round."""
    figures = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
    speeds = [run["tokens/s"] for run in runs]
    return {**figures, "low tokens/s": min(speeds), "high tokens/s": max(speeds)}


ARMS: dict[str, Callable[[str, list[Tokens], Path], Outcome]] = {
    "ours": ours,
    "padded to 512": partial(padded, width=WIDTH),
    "padded to the longest": partial(padded, width=0),
    "TRL packing": partial(trl, checkpointing=False),
    "TRL packing, checkpointing": partial(trl, checkpointing=True),
}

if __name__ == "__main__":
    main()
