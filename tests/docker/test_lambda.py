"""The Lambda function: events as API Gateway and function URLs send them, on the real app with a real, tiny model."""

from __future__ import annotations

import base64
import importlib.util
import json
import os
import subprocess
import sys

import pytest

from llmops.config import Config, load
from llmops.monitoring.datasets import AUDIT, SERVING, TEXT
from llmops.monitoring.sinks.local import LocalStore
from llmops.monitoring.spool import Spool
from serving.serverless import bring

from .conftest import ROOT, environment, files
from .lambda_events import runtime_api, v1, v2

FOLDER = ROOT / "docker" / "lambda"
BODY = json.dumps({"prompt": "Where is my order?", "max_new_tokens": 4})


def function_module():
    spec = importlib.util.spec_from_file_location("function", FOLDER / "function.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("lambda") / "llmops"


@pytest.fixture(scope="module")
def function(released, home):
    before = files(released.path)
    made = started(load(environ=environment(released, home)), released)
    yield made
    made.close()
    assert files(released.path) == before, "the image's files cannot be written in Lambda"


def started(config, released):
    """The function as `handler` makes it."""
    bring(released.path / "state.db", config)
    return function_module().Function(config)


def url(*args, **kwargs):
    return v2(*args, **kwargs, host="abc.lambda-url.eu-west-1.on.aws")


@pytest.mark.parametrize("event", [v1, v2, url])
def test_it_answers_each_kind_of_event_from_the_first_on(function, released, event):
    headers = {"content-type": "application/json", "x-api-key": released.key}
    answer = function(event("POST", "/generate", headers, BODY), None)
    assert answer["statusCode"] == 200, answer
    body = json.loads(answer["body"])
    assert body["model_version"] == "v1" and 0 < body["usage"]["output_tokens"] <= 4
    assert answer["isBase64Encoded"] is False


def test_a_body_in_base64_is_the_same_body(function, released):
    headers = {"content-type": "application/json", "x-api-key": released.key}
    plain = function(v2("POST", "/generate", headers, BODY), None)
    coded = function(v2("POST", "/generate", headers, base64.b64encode(BODY.encode()).decode(), encoded=True), None)
    assert json.loads(coded["body"])["response"] == json.loads(plain["body"])["response"]


@pytest.mark.parametrize("event", [v1, v2])
def test_refusals_are_answers_not_errors(function, released, event):
    assert function(event("POST", "/generate", {"content-type": "application/json"}, BODY), None)["statusCode"] == 401
    headers = {"content-type": "application/json", "x-api-key": released.key}
    assert function(event("POST", "/generate", headers, '{"prompt": '), None)["statusCode"] == 422
    assert function(event("GET", "/nowhere", headers), None)["statusCode"] == 404


def test_every_event_is_at_its_sink_when_the_answer_goes_out(function, released, home):
    headers = {"content-type": "application/json", "x-api-key": released.key}
    store = LocalStore(home / "events")
    before = {dataset: len(list(store.find(dataset))) for dataset in (SERVING, TEXT)}
    for n in range(3):
        function(v2("POST", "/generate", headers, BODY), None)
        assert {dataset: len(list(store.find(dataset))) - n - 1 for dataset in before} == before
    function(v2("GET", "/dashboard/data", {"x-api-key": "llmops_wrong"}), None)
    assert [event for event in store.find(AUDIT) if event.get("url.path") == "/dashboard/data"]
    with Spool(home / "events") as spool:
        assert spool.waiting() == {"local": 0}


def test_events_wait_when_the_sink_is_down(released, tmp_path, caplog):
    config = Config(
        home=tmp_path,
        release={"registry": released.path / "registry"},
        monitoring={"sinks": ["elasticsearch"], "elasticsearch_url": "http://127.0.0.1:9"},
    )
    function = started(config, released)
    try:
        headers = {"content-type": "application/json", "x-api-key": released.key}
        assert function(v2("POST", "/generate", headers, BODY), None)["statusCode"] == 200
        assert "elasticsearch" in caplog.text
        with Spool(tmp_path / "events") as spool:
            assert spool.waiting()["elasticsearch"] >= 1
    finally:
        function.close()


def test_without_a_model_it_says_why_instead_of_starting(tmp_path):
    with pytest.raises(RuntimeError, match="no champion"):
        function_module().Function(Config(home=tmp_path), wait_s=0.2)


def test_the_runtime_client_of_aws_runs_the_handler(released, tmp_path):
    """`awslambdaric` itself, as in the image, with a server that speaks Lambda's runtime API."""
    headers = {"content-type": "application/json", "x-api-key": released.key}
    with runtime_api([v1("POST", "/generate", headers, BODY), v2("GET", "/healthz", {})]) as (port, answers):
        env = {
            **os.environ,
            **environment(released, tmp_path),
            "PYTHONPATH": str(ROOT),
            "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{port}",
        }
        process = subprocess.Popen([sys.executable, "-m", "awslambdaric", "handler.handler"], cwd=FOLDER, env=env)
        try:
            path, answer = answers.get(timeout=120)
            assert path == "/2018-06-01/runtime/invocation/request-1/response", answer
            assert answer["statusCode"] == 200 and json.loads(answer["body"])["model_version"] == "v1"
            assert answers.get(timeout=30)[1]["statusCode"] == 200
        finally:
            process.kill()
            process.wait()
