"""The app as `python -m serving` runs it with vLLM: clients, streams, JSON, calls, swap, canary: `make test-vllm`.

vLLM has an environment of its own, that of the benchmarks: its wheel for CPUs, or vLLM itself where CUDA is.
"""

import importlib
import json
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from langchain_openai import ChatOpenAI
from openai import OpenAI
from pydantic import BaseModel, SecretStr

from llmops.access.keys import keys_of
from llmops.config import Config
from llmops.release.registry.registry import registry_of
from tests.clock import wait_until
from tests.conftest import find_free_port
from tests.release.conftest import facts

from .wide_base import WINDOW, make_wide_base

ROOT = Path(__file__).parents[2]
OPTIONS = {"enforce_eager": True, "kv_cache_memory_bytes": 2**26, "dtype": "float32"}
SETTINGS = {"ENGINE": "vllm", "VLLM": json.dumps(OPTIONS), "MAX_CONTEXT": str(WINDOW), "MAX_BATCH": "8"}
CHAT: Any = [{"role": "user", "content": "Where is my order?"}]


class Site(NamedTuple):
    """An app that answers, and keys to it."""

    url: str
    user: str
    admin: str

    def ask(self, body: dict[str, Any]) -> httpx.Response:
        return httpx.post(f"{self.url}/generate", json=body, headers={"X-API-Key": self.user}, timeout=120)

    def post(self, path: str, body: dict[str, Any]) -> None:
        answer = httpx.post(f"{self.url}{path}", json=body, headers={"X-API-Key": self.admin}, timeout=300)
        assert answer.status_code == 200, answer.text


@pytest.fixture(scope="module")
def site(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    importlib.import_module("serving")  # `benchmarks/serving.py` shall not take the place of the package
    sys.path.append(str(ROOT / "benchmarks"))
    python = importlib.import_module("contenders").VLLM.python()
    home = tmp_path_factory.mktemp("home")
    config = Config(home=home)
    registry = registry_of(config)
    for n in (1, 2):
        servable = make_wide_base(home / f"base{n}", tokenizer, seed=n)
        known = facts(status="rejected", compress=f"c{n}")
        version = registry.publish(known, {"servable": servable}, lambda v: {}, by="test", why="a test")
        registry.decide(version.name, "gate", "promoted", by="test", why="passed")
    registry.promote("v1")
    keys = keys_of(config)
    user, _ = keys.create("user", "somebody", requests_per_minute=0, tokens_per_minute=0)
    admin, _ = keys.create("admin", "somebody")
    port = find_free_port()
    environ = {**os.environ, "LLMOPS_HOME": str(home), "LLMOPS_SERVING__PORT": str(port)}
    environ |= {f"LLMOPS_SERVING__{name}": value for name, value in SETTINGS.items()}
    environ |= {"PYTHONPATH": str(ROOT), "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    with open(home / "log", "wb") as log:
        app = subprocess.Popen([python, "-m", "serving"], env=environ, cwd=home, stdout=log, stderr=log)

    def is_ready() -> bool:
        assert app.poll() is None, (home / "log").read_text()[-3000:]
        try:
            return httpx.get(f"{site.url}/readyz").status_code == 200
        except httpx.TransportError:
            return False

    site = Site(f"http://127.0.0.1:{port}", user, admin)
    try:
        wait_until(is_ready, "the app", 600)
        yield site
    finally:
        app.terminate()
        app.wait(120)


@pytest.fixture(scope="module")
def client(site: Site) -> OpenAI:
    return OpenAI(base_url=f"{site.url}/v1", api_key=site.user, timeout=120, max_retries=0)


@pytest.fixture(scope="module")
def langchain(site: Site) -> ChatOpenAI:
    return ChatOpenAI(base_url=f"{site.url}/v1", api_key=SecretStr(site.user), model="champion", max_tokens=48)


class Place(BaseModel):
    """What an answer in JSON has."""

    shelf: int
    sold: bool


FUNCTION: Any = {"type": "function", "function": {"name": "find", "parameters": Place.model_json_schema()}}


def test_openais_client_chats_whole_and_as_a_stream(client: OpenAI) -> None:
    whole = client.chat.completions.create(model="champion", messages=CHAT, max_tokens=12, temperature=0)
    assert whole.usage and whole.usage.completion_tokens and whole.model
    stream = client.chat.completions.create(model="champion", messages=CHAT, max_tokens=12, temperature=0, stream=True)
    pieces = [piece.choices[0].delta.content or "" for piece in stream if piece.choices]
    assert "".join(pieces) == whole.choices[0].message.content and len(pieces) > 3


def test_openais_client_completes_a_text_with_log_probabilities(client: OpenAI) -> None:
    assert client.completions.create(model="champion", prompt="Once upon", max_tokens=8).choices[0].text
    chat = client.chat.completions.create(model="champion", messages=CHAT, max_tokens=8, logprobs=True)
    assert chat.choices[0].logprobs and len(chat.choices[0].logprobs.content or []) > 3


def test_answers_are_json_and_calls_whole_and_as_a_stream(client: OpenAI) -> None:
    asked: Any = {"model": "champion", "messages": CHAT, "max_tokens": 64}
    answer = client.chat.completions.parse(**asked, response_format=Place)
    assert isinstance(answer.choices[0].message.parsed, Place)
    with client.chat.completions.stream(**asked, response_format=Place) as stream:
        assert isinstance(stream.get_final_completion().choices[0].message.parsed, Place)
    called = client.chat.completions.create(**asked, tools=[FUNCTION], tool_choice="required")
    (call,) = called.choices[0].message.tool_calls or []
    assert call.type == "function" and call.function.name == "find"
    assert Place.model_validate_json(call.function.arguments)


def test_langchain_chats_streams_batches_and_gets_objects(langchain: ChatOpenAI) -> None:
    assert langchain.invoke("Where is it?").usage_metadata
    assert len(list(langchain.stream("Where is it?"))) > 3
    assert len(langchain.batch(["Where is it?", "When does it come?"])) == 2
    assert isinstance(langchain.with_structured_output(Place, method="json_schema").invoke("Where is it?"), Place)


def test_a_swap_a_canary_and_a_way_back_under_load_fail_no_request(site: Site) -> None:
    stop, found = threading.Event(), list[tuple[int, str]]()

    def call() -> None:
        n = 0
        while not stop.is_set():
            n += 1
            answer = site.ask({"prompt": f"Where is order {n}?", "max_new_tokens": 8})
            found.append((answer.status_code, answer.json().get("model_version", answer.text)))

    def answers(version: str) -> bool:
        return any(by == version for _, by in found[-8:])

    callers = [threading.Thread(target=call, daemon=True) for _ in range(4)]
    for caller in callers:
        caller.start()
    try:
        wait_until(lambda: answers("v1"), "an answer of v1", 120)
        site.post("/admin/promote", {"version": "v2"})
        wait_until(lambda: answers("v2"), "an answer of v2", 300)
        site.post("/admin/rollback", {})
        wait_until(lambda: answers("v1"), "an answer of v1 again", 300)
        site.post("/admin/canary", {"version": "v2", "share": 0.999})
        wait_until(lambda: answers("v2"), "an answer of the canary", 300)
    finally:
        stop.set()
    for caller in callers:
        caller.join(120)
    assert {status for status, _ in found} == {200}, Counter(found)
