"""Serving on a GPU: a model of Phi-3-mini's shape in bfloat16, NF4 and 8-bit floats, by vLLM and by transformers.

The weights are made up, since speed and memory do not depend on what they say: Phi-3-mini's configuration with the
vocabulary of the tokenizer at hand, 3.9 billion parameters. Each form is a folder as `compress` makes it, NF4 without
an adapter. Our app serves it with keys, limits, guard and events on, and is asked for answers of at most 48 tokens at
1, 4, 16 and 64 streams, by the engine `vllm` (v) and by `transformers` (t); (d) is plain `vllm serve` in bfloat16.
Memory is the most that the GPU has in use while a server runs; for keys and values vLLM has the same in all its arms.

    python benchmarks/gpu_serving.py [--quick] [--json] [--layers 32]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

from contenders import BASE, CUDA, MODELS, VLLM, Arm, serve_transformers, serve_vllm, serve_vllm_ours  # noqa: E402
from measuring import STREAMS, measured, shown  # noqa: E402
from peers import attempted, in_process  # noqa: E402
from report import divided, finish, parser  # noqa: E402
from servers import make_base  # noqa: E402

FORMS = ("bf16", "nf4", "fp8")
CACHE = 8 * 2**30  #: bytes of keys and values in vLLM: more than 64 requests of this shape need
PLAIN = "(d) vllm serve, bf16"


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    made = parser(__file__, __doc__, "one round; vLLM does not compile")
    made.add_argument("--layers", type=int, default=32, help="of the model; fewer to try the benchmark itself")
    made.add_argument("--make", metavar="FORM", help=argparse.SUPPRESS)
    return made.parse_args(arguments)


def main() -> None:
    """Run the arms one after another and print the table."""
    told = options()
    if told.make:
        make(told.make, told.layers)
        return
    if not CUDA:
        sys.exit("There is no CUDA device here.")
    make_base(BASE)
    arms: dict[str, dict[str, float]] = {}
    failed: dict[str, str] = {}
    for name, form, arm in contenders(told.layers, told.quick):
        with attempted(name, failed), tempfile.TemporaryDirectory() as folder:
            in_process(__file__, "--make", form, "--layers", str(told.layers))
            with arm.serve(Path(folder)) as server, gpu_memory() as used:
                found, _ = measured(arm, server, 1 if told.quick else 3, STREAMS)
            for streams, figures in found.items():
                arms[f"{name}, {streams}"] = {**figures, "GPU MiB": max(used)}
                print(f"{name}, {streams} streams: {shown(figures)}", flush=True)
    claims = {
        f"tokens/s at {n} streams, {top} over {bottom}": ((f"{top}, {n}", "tokens/s"), (f"{bottom}, {n}", "tokens/s"))
        for n in STREAMS
        for top, bottom in [("(v) vllm, bf16", PLAIN)]
        + [(f"(v) vllm, {form}", f"(t) transformers, {form}") for form in FORMS]
        + [(f"(v) vllm, {form}", "(v) vllm, bf16") for form in FORMS[1:]]
    }
    finish(told, arms, divided(arms, claims), failed, ("torch", "transformers", "bitsandbytes"), [VLLM])


def contenders(layers: int, eager: bool) -> Iterator[tuple[str, str, Arm]]:
    """The arms: name, form and server."""
    for form in FORMS:
        model = folder_of(form, layers)
        yield (
            f"(v) vllm, {form}",
            form,
            Arm(partial(serve_vllm_ours, eager=eager, model=model, cache=CACHE), marks=True),
        )
        yield f"(t) transformers, {form}", form, Arm(partial(serve_transformers, model=model), marks=True)
    yield PLAIN, "bf16", Arm(partial(serve_vllm, eager=eager, model=folder_of("bf16", layers), cache=CACHE))


def folder_of(form: str, layers: int) -> Path:
    """Where a form of the model lies."""
    return MODELS / f"phi-3-mini-{layers}-{form}"


def make(form: str, layers: int) -> None:
    """Make a form of the model, if it is not there; a process of its own gives the GPU's memory back."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, FineGrainedFP8Config

    from llmops.model.base.load import load_model, make_nf4_config

    out = folder_of(form, layers)
    if not (out / "tokenizer_config.json").is_file():
        if form == "bf16":
            tokenizer = AutoTokenizer.from_pretrained(BASE)
            ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
            config = AutoConfig.for_model(
                "phi3", vocab_size=len(tokenizer), num_hidden_layers=layers, pad_token_id=tokenizer.eos_token_id, **ends
            )
            torch.manual_seed(0)
            model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        else:
            make("bf16", layers)
            model = load_model(
                folder_of("bf16", layers), make_nf4_config() if form == "nf4" else FineGrainedFP8Config()
            )
        model.save_pretrained(out)
        AutoTokenizer.from_pretrained(BASE).save_pretrained(out)  # last: without it the folder is not whole
    print("{}")


@contextmanager
def gpu_memory() -> Iterator[list[float]]:
    """What the GPU has in use, MiB, four times a second while the block runs."""
    found, over = [used_now()], threading.Event()

    def watch() -> None:
        while not over.wait(0.25):
            found.append(used_now())

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        over.set()
        thread.join()


def used_now() -> float:
    """As the driver tells it, MiB, of all GPUs."""
    command = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    return sum(map(float, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()))


if __name__ == "__main__":
    main()
