"""Training: useful tokens/s, peak memory and held-out loss of ours and of three peers, on the same data and steps.

Every arm trains the same adapter on the same base in NF4 with the examples of `examples/support_bot/`, eight of them a
step, in a process of its own, with the same seed. Useful tokens are those of the examples, prompts included; padding
is not. The peers: transformers' `Trainer` with every example padded to 512 tokens, as tutorials have it; the same,
padded to the longest of a batch; and TRL's `SFTTrainer`, which packs whole examples into rows of as many tokens as
eight examples have, with and without the gradient checkpointing that is its default. All count loss on answers only
and compute in bfloat16.

Last, ours and the padding recipe on the shape of a Llama of 1.1 B parameters with random weights, where there is a GPU;
without one the same two arms run on a tiny shape, and the table says so.

    python benchmarks/training.py [--quick] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import torch  # noqa: E402
from peers import Peer, attempted, in_process  # noqa: E402
from report import Cell, divided, finish, parser  # noqa: E402
from transformers import LlamaConfig, LlamaForCausalLM  # noqa: E402

from llmops.config import load  # noqa: E402
from llmops.data.features.examples import read_offline  # noqa: E402
from llmops.data.features.tokenize import Tokens  # noqa: E402
from llmops.frame.records import get_base_path  # noqa: E402
from llmops.pipeline.pipeline import STAGES, run_stage  # noqa: E402

EXAMPLE = Path(__file__).parents[1] / "examples" / "support_bot" / "config.yaml"
DAY = "2026-01-31"
TRL = Peer("trl", ("trl>=1.16",), beside=True)
OURS, RECIPE = "ours", "padded to 512"
PEERS = (RECIPE, "padded to the longest", "TRL packing", "TRL packing, checkpointing")


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    return parser(__file__, __doc__, "one round of 16 examples, not three of 120").parse_args(arguments)


def main() -> None:
    """Run every arm in its own process, in turns, and print the table."""
    told = options()
    rounds, count = (1, 16) if told.quick else (3, 120)
    found: dict[str, list[dict[str, float]]] = {}
    failed: dict[str, str] = {}
    shaped = {arm: f"{shape_name()}: {arm}" for arm in (OURS, RECIPE)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder / "example", count)
        prepare_shape(folder / "shape")
        for _ in range(rounds):
            for arm in (OURS, *PEERS):
                with attempted(arm, failed):
                    found.setdefault(arm, []).append(measured(arm, folder / "example"))
        for arm, known_as in shaped.items():
            with attempted(known_as, failed):
                found[known_as] = [measured(arm, folder / "shape")]
    arms = {arm: summary(runs) for arm, runs in found.items() if runs}
    claims: dict[str, tuple[Cell, Cell]] = {
        f"{words}, ours over {peer}": ((OURS, figure), (peer, figure))
        for words, figure in (("useful tokens/s", "tokens/s"), ("peak memory", "peak MiB"), ("held-out loss", "loss"))
        for peer in PEERS
    }
    for words, figure in (("useful tokens/s", "tokens/s"), ("peak memory", "peak MiB")):
        claims[f"{shape_name()}: {words}, ours over {RECIPE}"] = ((shaped[OURS], figure), (shaped[RECIPE], figure))
    if not torch.cuda.is_available():
        print(
            "\nThere is no GPU here: the arms on a random Llama ran a tiny shape on the CPU and only prove the script."
        )
    finish(told, arms, divided(arms, claims), failed, ("torch", "transformers", "peft", "bitsandbytes"), [TRL])


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
    write_inputs(folder, get_base_path(found["select"]), splits["train"][:count], splits["validation"])


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


def measured(arm: str, folder: Path) -> dict[str, float]:
    """The figures of one arm, from a process of its own."""
    python = TRL.python() if arm.startswith("TRL") else sys.executable
    script = str(Path(__file__).with_name("trainers.py"))
    figures: dict[str, float] = in_process(script, arm, folder, python=python, environ={"PYTHONWARNINGS": "ignore"})
    print(f"{arm}: {figures}", flush=True)
    return figures


def summary(runs: Sequence[dict[str, float]]) -> dict[str, float]:
    """The median of every figure, and the slowest and fastest round."""
    figures = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
    speeds = [run["tokens/s"] for run in runs]
    return {**figures, "low tokens/s": min(speeds), "high tokens/s": max(speeds)}


if __name__ == "__main__":
    main()
