"""The Lambda function: events as API Gateway and function URLs send them, on the real app with a real, tiny model."""

import base64
import importlib.util
import json
import sys

import pytest

from llmops.config import Config, load
from llmops.events.datasets import SERVING
from llmops.events.shipping import Shipper
from llmops.events.sinks.local import LocalStore
from llmops.events.spool import Spool

from .conftest import ROOT

pytestmark = pytest.mark.service  # loads the model for each function

FOLDER = ROOT / "docker" / "lambda"
BODY = json.dumps({"prompt": "Where is my order?", "max_new_tokens": 4})


def function_module():
    spec = importlib.util.spec_from_file_location("function", FOLDER / "function.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def environment(released, home):
    return {
        "LLMOPS_HOME": str(home),
        "LLMOPS_RELEASE__REGISTRY": str(released.path / "registry"),
        "LLMOPS_IMAGE_STATE": str(released.path / "state.db"),
    }


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
    module = function_module()
    module.bring(released.path / "state.db", config)
    return module.Function(config)


def files(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def v1(method, path, headers, body=None, encoded=False):
    """An event of an API Gateway REST API (payload format 1.0)."""
    context = {"resourcePath": "/{proxy+}", "httpMethod": method, "stage": "prod", "identity": {}}
    query = dict.fromkeys(("queryStringParameters", "multiValueQueryStringParameters"))
    several = {name: [value] for name, value in headers.items()}
    event = {"resource": "/{proxy+}", "path": path, "httpMethod": method, "pathParameters": {"proxy": path.strip("/")}}
    event |= {"headers": headers, "multiValueHeaders": several, **query, "requestContext": context}
    return {**event, "body": body, "isBase64Encoded": encoded}


def v2(method, path, headers, body=None, encoded=False, host="abc.execute-api.eu-west-1.amazonaws.com"):
    """An event of an API Gateway HTTP API (payload format 2.0), or with another host of a function URL."""
    http = {"method": method, "path": path, "protocol": "HTTP/1.1", "sourceIp": "203.0.113.7"}
    context = {"domainName": host, "http": http, "stage": "$default"}
    event = {"version": "2.0", "routeKey": "$default", "rawPath": path, "rawQueryString": "", "requestContext": context}
    return {**event, "headers": {"host": host, **headers}, "body": body, "isBase64Encoded": encoded}


def url(*args, **kwargs):
    return v2(*args, **kwargs, host="abc.lambda-url.eu-west-1.on.aws")


@pytest.mark.parametrize("event", [v1, v2, url])
def test_it_answers_each_kind_of_event_from_the_first_on_and_refusals_are_answers(function, released, event):
    headers = {"content-type": "application/json", "x-api-key": released.key}
    answer = function(event("POST", "/generate", headers, BODY), None)
    assert answer["statusCode"] == 200, answer
    body = json.loads(answer["body"])
    assert body["model_version"] == "v1" and 0 < body["usage"]["output_tokens"] <= 4
    assert answer["isBase64Encoded"] is False
    coded = function(event("POST", "/generate", headers, base64.b64encode(BODY.encode()).decode(), encoded=True), None)
    assert json.loads(coded["body"])["response"] == body["response"]
    assert function(event("POST", "/generate", {"content-type": "application/json"}, BODY), None)["statusCode"] == 401
    assert function(event("POST", "/generate", headers, '{"prompt": '), None)["statusCode"] == 422
    assert function(event("GET", "/nowhere", headers), None)["statusCode"] == 404


def test_every_event_is_at_its_sink_when_the_answer_goes_out(function, released, home):
    headers = {"content-type": "application/json", "x-api-key": released.key}
    before = len(list(LocalStore(home / "events").find(SERVING)))
    function(v2("POST", "/generate", headers, BODY), None)
    assert len(list(LocalStore(home / "events").find(SERVING))) == before + 1
    with Spool(home / "events") as spool:
        assert spool.count_waiting() == {"local": 0}


def test_what_a_sink_does_not_take_waits_and_goes_with_the_next_request(released, tmp_path, hook, monkeypatch, caplog):
    for name in ("start", "stop"):
        monkeypatch.setattr(Shipper, name, lambda shipper: None)  # between requests Lambda freezes every thread
    environ = {**environment(released, tmp_path), "LLMOPS_MONITORING__LOGSTASH_URL": hook.url}
    function = started(load(environ={**environ, "LLMOPS_MONITORING__SINKS": '["logstash"]'}), released)
    event = v2("POST", "/generate", {"content-type": "application/json", "x-api-key": released.key}, BODY)
    try:
        hook.status = 503
        answers = [function(event, None)]
        assert answers[0]["statusCode"] == 200 and "Sink logstash" in caplog.text
        with Spool(tmp_path / "events") as spool:
            assert spool.count_waiting()["logstash"]
            hook.status = 200
            hook.got.clear()
            answers.append(function(event, None))
            assert spool.count_waiting() == {"logstash": 0}
    finally:
        function.close()
    told = [event for _, _, body in hook.got for event in json.loads(body) if event["event.dataset"] == SERVING]
    assert [event["http.request.id"] for event in told] == [json.loads(one["body"])["id"] for one in answers]


def test_without_a_model_it_says_why_instead_of_starting(tmp_path):
    with pytest.raises(RuntimeError, match="no champion"):
        function_module().Function(Config(home=tmp_path), wait_s=0.2)


def test_the_handler_is_made_when_it_is_imported_with_the_keys_of_the_image(released, home, tmp_path, monkeypatch):
    for name, value in environment(released, tmp_path).items():
        monkeypatch.setenv(name, value)
    monkeypatch.syspath_prepend(str(FOLDER))
    spec = importlib.util.spec_from_file_location("handler", FOLDER / "handler.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    try:
        headers = {"content-type": "application/json", "x-api-key": released.key}
        assert module.handler(v1("POST", "/generate", headers, BODY), None)["statusCode"] == 200
    finally:
        module.handler.close()
        sys.modules.pop("function")
