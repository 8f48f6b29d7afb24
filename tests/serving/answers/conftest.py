"""A process of the app that serves a tiny GGUF model, and OpenAI's client for it: nothing here is a stand-in."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

from llmops.model.gguf.write import write_folder

PROCESS = """
import json, sys
from llmops.config import Config
from serving.app import serve

serve(Config(**json.loads(sys.argv[1])))
"""


@pytest.fixture(scope="package")
def served(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Where the process listens, and a key."""
    from ..conftest import Site

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    site = Site(tmp_path_factory.mktemp("home"), host="127.0.0.1", port=port, max_new_tokens=450, max_context=512)
    site.release()
    servable = site.config.release.registry / site.config.release.name / "versions" / "v1" / "servable"
    servable.rmdir()
    write_folder(tiny_base, servable, "f16")
    process = subprocess.Popen([sys.executable, "-c", PROCESS, site.config.model_dump_json()])
    url = f"http://127.0.0.1:{port}"
    until = time.monotonic() + 120
    while not is_ready(url):
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.1)
    yield {"base_url": f"{url}/v1", "api_key": site.keys["user"]}
    process.terminate()
    assert process.wait(60) is not None


def is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture
def client(served: dict[str, str]) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(**served, max_retries=0) as client:
        yield client
