"""The Azure Function: requests as its worker makes them, on the real app with a real, tiny model."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import subprocess
import sys
import threading
import time

import pytest

from llmops.config import Config, load
from llmops.monitoring.datasets import AUDIT, SERVING, TEXT
from llmops.monitoring.sinks.local import LocalStore
from llmops.monitoring.spool import Spool
from serving.serverless import bring

from .conftest import DOCKER, ROOT, environment, files

pytest.importorskip("azure.functions", reason="this release of azure-functions is for Pythons before 3.13")

from .azure_requests import request, sent  # noqa: E402

FOLDER = DOCKER / "azure"
BODY = json.dumps({"prompt": "Where is my order?", "max_new_tokens": 4})


def function_module():
    spec = importlib.util.spec_from_file_location("azure_function", FOLDER / "function.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("azure") / "llmops"


@pytest.fixture(scope="module")
def function(released, home):
    before = files(released.path)
    made = started(load(environ=environment(released, home)), released)
    yield made
    made.close()
    assert files(released.path) == before, "the image's files are not the function's"


def started(config, released, wait_s=110.0):
    """The function as `function_app` makes it."""
    bring(released.path / "state.db", config)
    return function_module().Function(config, wait_s)


def call(function, *requests):
    """Answers to requests that come at once."""

    async def all_of_them():
        return await asyncio.gather(*(function(one, None) for one in requests))

    return [sent(answer) for answer in asyncio.run(all_of_them())]


def keyed(released):
    return {"content-type": "application/json", "x-api-key": released.key}


def events(home, dataset):
    return list(LocalStore(home / "events").find(dataset))


def test_the_first_requests_wait_for_the_model_and_one_app_answers_all(released, tmp_path):
    function = started(load(environ=environment(released, tmp_path)), released)
    try:
        answers = call(function, *(request("POST", "/generate", keyed(released), BODY) for _ in range(3)))
        assert [answer.status for answer in answers] == [200] * 3, answers
        assert {answer.json()["model_version"] for answer in answers} == {"v1"}
        assert len({answer.json()["response"] for answer in answers}) == 1
    finally:
        function.close()
    assert "app" not in {thread.name for thread in threading.enumerate()}


@pytest.mark.parametrize("body", [BODY, BODY.encode()])
def test_it_answers_with_the_apps_headers(function, released, body):
    [answer] = call(function, request("POST", "/generate", keyed(released), body))
    assert answer.status == 200 and 0 < answer.json()["usage"]["output_tokens"] <= 4
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"]


def test_refusals_are_answers_not_errors(function, released):
    asked = [
        request("POST", "/generate", {"content-type": "application/json"}, BODY),
        request("POST", "/generate", {**keyed(released), "x-api-key": "llmops_wrong"}, BODY),
        request("POST", "/generate?code=a-function-key", {"content-type": "application/json"}, BODY),
        request("POST", "/generate", keyed(released), '{"prompt": '),
        request("POST", "/generate", keyed(released), b"\xff\xfe"),
        request("POST", "/generate", keyed(released), json.dumps({"prompt": "x" * 2_000_000})),
        request("GET", "/nowhere%2F..%00/caf%C3%A9?x=%ff", keyed(released)),
        request("DELETE", "/generate", keyed(released)),
    ]
    assert [answer.status for answer in call(function, *asked)] == [401, 401, 401, 422, 422, 413, 404, 405]


def test_limits_of_keys_hold(released, tmp_path):
    config = load(environ={**environment(released, tmp_path), "LLMOPS_SERVING__REQUESTS_PER_MINUTE": "2"})
    function = started(config, released)
    try:
        answers = call(function, *(request("POST", "/generate", keyed(released), BODY) for _ in range(4)))
        assert sorted(answer.status for answer in answers) == [200, 200, 429, 429]
        assert all("retry-after" in answer.headers for answer in answers if answer.status == 429)
    finally:
        function.close()


def test_a_stream_arrives_whole_and_is_the_same_answer(function, released):
    asked = {"model": "support-bot", "prompt": "Where is my order?", "max_tokens": 4}
    paths = [request("POST", "/v1/completions", keyed(released), json.dumps({**asked, "stream": s})) for s in (0, 1)]
    whole, stream = call(function, *paths)
    assert stream.headers["content-type"].startswith("text/event-stream")
    parts = [line.removeprefix("data: ") for line in stream.body.decode().splitlines() if line.startswith("data: ")]
    assert parts[-1] == "[DONE]"
    said = "".join(json.loads(part)["choices"][0]["text"] for part in parts[:-1] if json.loads(part)["choices"])
    assert said == whole.json()["choices"][0]["text"]


def test_signing_in_works_through_the_front_end(function, released):
    form = {"content-type": "application/x-www-form-urlencoded", "origin": "https://bot.azurewebsites.net"}
    [answer] = call(function, request("POST", "/signin", form, f"api_key={released.key}"))
    [cookie] = answer.cookies
    [(name, morsel)] = cookie.items()
    assert morsel["secure"] and morsel["httponly"] and morsel["samesite"] == "strict"
    [page] = call(function, request("GET", "/", {"cookie": f"{name}={morsel.value}"}))
    assert page.status == 200 and page.headers["content-type"].startswith("text/html")
    [foreign] = call(function, request("POST", "/signin", {**form, "origin": "https://evil.example"}, "api_key=x"))
    assert foreign.status == 403


def test_every_event_is_at_its_sink_when_the_answer_goes_out(function, released, home):
    before = {dataset: len(events(home, dataset)) for dataset in (SERVING, TEXT)}
    for n in (1, 2, 5):  # 5 at once share a shipping
        call(function, *(request("POST", "/generate", keyed(released), BODY) for _ in range(n)))
        for dataset in before:
            before[dataset] += n
            assert len(events(home, dataset)) == before[dataset]
    with Spool(home / "events") as spool:
        assert spool.waiting() == {"local": 0}
    assert len({event["event.id"] for event in events(home, SERVING)}) == before[SERVING]


def test_who_is_refused_is_at_the_sink_too_with_the_address_that_the_front_end_saw(function, home):
    claimed = {"x-forwarded-for": "10.9.9.9, 198.51.100.9:4711"}
    call(function, request("GET", "/v1/models", claimed))
    assert [event for event in events(home, AUDIT) if event.get("client.ip") == "198.51.100.9"]
    assert not [event for event in events(home, AUDIT) if event.get("client.ip") == "10.9.9.9"]


@pytest.mark.parametrize(
    ("passed_on", "known"),
    [
        ("203.0.113.7:51234", ("203.0.113.7", 51234)),
        ("203.0.113.7", ("203.0.113.7", 0)),
        ("1.1.1.1, [2001:db8::1]:443", ("2001:db8::1", 443)),
        ("2001:db8::1", ("2001:db8::1", 0)),
        ("", None),
    ],
)
def test_the_caller_is_who_the_front_end_saw(passed_on, known):
    scopes = []

    async def app(scope, receive, send):
        scopes.append(scope)

    scope = {"headers": [(b"x-forwarded-for", passed_on.encode())], "client": None}
    asyncio.run(function_module().with_caller(app)(scope, None, None))
    assert scopes[0]["client"] == known


def test_events_wait_when_the_sink_is_down(released, tmp_path, caplog):
    config = Config(
        home=tmp_path,
        release={"registry": released.path / "registry"},
        monitoring={"sinks": ["elasticsearch"], "elasticsearch_url": "http://127.0.0.1:9"},
    )
    function = started(config, released)
    try:
        answers = call(function, *(request("POST", "/generate", keyed(released), BODY) for _ in range(3)))
        assert [answer.status for answer in answers] == [200] * 3
        assert "elasticsearch" in caplog.text
        with Spool(tmp_path / "events") as spool:
            assert spool.waiting()["elasticsearch"] >= 6
    finally:
        function.close()


def test_without_a_model_requests_are_told_why(tmp_path, caplog):
    function = function_module().Function(Config(home=tmp_path), wait_s=0.2)
    try:
        ready, alive = call(function, request("GET", "/readyz"), request("GET", "/healthz"))
        assert ready.status == 503 and "no champion" in ready.json()["detail"]
        assert alive.status == 200
        assert "no champion" in caplog.text
    finally:
        function.close()


def test_who_does_not_wait_for_the_model_is_told_and_it_answers_when_it_has_one(released, tmp_path):
    function = started(load(environ=environment(released, tmp_path)), released, wait_s=0.0)
    try:
        end = time.monotonic() + 120
        while (answer := call(function, request("POST", "/generate", keyed(released), BODY))[0]).status != 200:
            assert answer.status == 503 and time.monotonic() < end, answer
            time.sleep(1.2)  # a key may ask 60 times a minute
    finally:
        function.close()


def test_the_worker_finds_one_function_that_lets_the_app_ask_for_keys(released, tmp_path):
    """`function_app` imported as the worker does it, in a running event loop, and called there."""
    env = {**os.environ, **environment(released, tmp_path)}
    env["PYTHONPATH"] = os.pathsep.join(map(str, (FOLDER, ROOT, ROOT / "tests" / "docker")))
    worker = [sys.executable, "-P", ROOT / "tests" / "docker" / "azure_worker.py", released.key]
    done = subprocess.run(worker, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    said, answer = map(json.loads, done.stdout.splitlines())
    assert said["statuses"] == [200, 200, 401]
    assert answer["model_version"] == "v1"
    assert said["trigger"]["authLevel"] == "ANONYMOUS" and said["trigger"]["route"] == "/{*route}"
    assert {"GET", "POST", "DELETE"} <= set(said["trigger"]["methods"])


def test_paths_reach_the_app_as_they_are_and_all_of_its_places_are_asked():
    http = json.loads((FOLDER / "host.json").read_text())["extensions"]["http"]
    assert http["routePrefix"] == ""
    serving = Config().serving
    assert http["maxConcurrentRequests"] > serving.max_queue + serving.max_batch, (
        "the app tells callers that it is full"
    )
