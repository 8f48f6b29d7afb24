"""Merging an adapter: peak memory and seconds, layer by layer and as a whole, on the shape of a Llama.

The base has 1.2 B parameters, with `--quick` 0.3 B. Both arms merge the same random adapter into the same random base,
which is rounded to NF4 before, and write the same files; each runs in a process of its own, and what Python and the
libraries take is a row of the table. The whole model in float32 is how it was done before, and how peft's
`merge_and_unload` is usually called.

    python benchmarks/merge.py [--quick] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import torch  # noqa: E402
from peers import attempted, in_process  # noqa: E402
from peft import LoraConfig, PeftModel, get_peft_model  # noqa: E402
from report import Cell, divided, finish, parser  # noqa: E402
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM  # noqa: E402

from llmops.model.base.catalog import read_catalogue  # noqa: E402
from llmops.model.base.load import load_model, load_tokenizer, make_nf4_config  # noqa: E402
from llmops.model.training.merge import save_merged  # noqa: E402

OURS, WHOLE, NOTHING = "layer by layer", "whole in float32", "the libraries alone"
SHAPE = {"hidden_size": 2048, "intermediate_size": 8192, "num_attention_heads": 32, "num_key_value_heads": 8}
LAYERS, QUICK_LAYERS, VOCABULARY, QUICK_VOCABULARY = 16, 4, 128256, 49152


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    return parser(__file__, __doc__, "a base of 0.3 B parameters instead of 1.2 B").parse_args(arguments)


def main() -> None:
    """Run every arm in its own process and print the table."""
    told = options()
    arms: dict[str, dict[str, float]] = {}
    failed: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, told.quick)
        for arm in ARMS:
            with attempted(arm, failed):
                arms[arm] = measured(arm, folder)
    claims: dict[str, tuple[Cell, Cell]] = {
        f"{words}, ours over the whole": ((OURS, figure), (WHOLE, figure))
        for words, figure in (("peak memory", "peak MiB"), ("seconds", "seconds"))
    }
    finish(told, arms, divided(arms, claims), failed, ("torch", "transformers", "peft", "bitsandbytes"))


def prepare(folder: Path, quick: bool) -> None:
    """Write the base and the adapter: random weights, and the embedded model's tokenizer."""
    gguf = read_catalogue()[0].find_packaged_file()
    assert gguf
    torch.manual_seed(0)
    layers, vocabulary = (QUICK_LAYERS, QUICK_VOCABULARY) if quick else (LAYERS, VOCABULARY)
    config = LlamaConfig(**SHAPE, num_hidden_layers=layers, vocab_size=vocabulary, tie_word_embeddings=True)
    torch.set_default_dtype(torch.bfloat16)
    model = LlamaForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    model.save_pretrained(folder / "base")
    AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name).save_pretrained(folder / "base")
    adapted = get_peft_model(model, LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM"))
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data.normal_(0, 0.01)
    adapted.save_pretrained(folder / "adapter")


def measured(arm: str, folder: Path) -> dict[str, float]:
    """One arm in a process of its own."""
    found: dict[str, float] = in_process(__file__, "--arm", arm, folder)
    return found


def layer_by_layer(folder: Path, out: Path) -> None:
    """The stage's own merge."""
    save_merged(str(folder / "base"), folder / "adapter", "qlora", out)


def as_a_whole(folder: Path, out: Path) -> None:
    """Dequantise, cast to float32, merge, cast back, save."""
    plain = load_model(folder / "base", make_nf4_config()).dequantize().to(torch.float32)
    merged = PeftModel.from_pretrained(plain, str(folder / "adapter")).merge_and_unload()
    merged.to(torch.bfloat16).save_pretrained(out)
    load_tokenizer(folder / "base").save_pretrained(out)


def nothing(folder: Path, out: Path) -> None:
    """What everything that is imported takes."""


ARMS: dict[str, Callable[[Path, Path], None]] = {OURS: layer_by_layer, WHOLE: as_a_whole, NOTHING: nothing}


def run_arm(arm: str, folder: Path) -> dict[str, float]:
    """Merge and measure, in this process."""
    with tempfile.TemporaryDirectory(dir=folder) as out:
        started = time.perf_counter()
        ARMS[arm](folder, Path(out))
        seconds = time.perf_counter() - started
    # Not `getrusage`: its maximum is inherited over fork and exec, so it would be that of the process that asked.
    peak = re.search(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert peak
    figures = {"peak MiB": int(peak[1]) / 1024, "seconds": seconds}
    if torch.cuda.is_available():
        figures["GPU MiB"] = torch.cuda.max_memory_allocated() / 2**20
    return figures


if __name__ == "__main__":
    if sys.argv[1:2] == ["--arm"]:
        print(json.dumps(run_arm(sys.argv[2], Path(sys.argv[3]))))
    else:
        main()
