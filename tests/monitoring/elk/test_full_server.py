"""What only a full server takes: lifecycle, roles and users by API.

No such server runs in these tests. A stand-in keeps what it is told, and Elastic's own client, which has a parameter
for each that the API knows, sends it the same: methods, paths and bodies of ours must be those of the client.
"""

import json
import re
from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from typing import Any
from urllib.parse import unquote

import pytest
from elasticsearch import Elasticsearch

from llmops.config import Monitoring
from llmops.monitoring.elk import setup
from llmops.monitoring.elk.setup import FIELDS_TEMPLATE, PASSAGES_USER, READER_USER, SEARCH_USER, WRITER_USER, read_yaml
from tests.served import Answer, served

ENVIRON = {
    "ELASTIC_PASSWORD": "secret-boss",
    "ELASTICSEARCH_WRITER_PASSWORD": "secret-writer",
    "ELASTICSEARCH_READER_PASSWORD": "secret-reader",
    "ELASTICSEARCH_PASSAGES_PASSWORD": "secret-loader",
    "ELASTICSEARCH_SEARCH_PASSWORD": "secret-search",
    "KIBANA_SYSTEM_PASSWORD": "secret-kibana",
}
Asked = tuple[str, str, Any]


class Full:
    """Answers as the API says; keeps templates, roles, users, lifecycles and two data streams."""

    def __init__(self) -> None:
        self.kept: dict[str, Any] = {"/_security/user/kibana_system": {"roles": ["kibana_system"]}}
        self.passwords: dict[str, str] = {}
        self.lifecycles: dict[str, dict[str, Any]] = {
            f"logs-llmops.{name}-default": {"enabled": True} for name in ("serving", "text")
        }
        self.asked: list[Asked] = []

    def answer(self, method: str, path: str, headers: Mapping[str, str], sent: bytes) -> Answer:
        path, body = unquote(path.split("?")[0]), json.loads(sent) if sent else None
        self.asked.append((method, path, body))
        status, answer = self.say(method, path, body, headers)
        answer_headers = {"X-Elastic-Product": "Elasticsearch", "Content-Type": "application/json"}
        return status, answer_headers, json.dumps(answer).encode()

    def say(self, method: str, path: str, body: Any, headers: Mapping[str, str]) -> tuple[int, Any]:
        name = path.rpartition("/")[2]
        if path == "/_cluster/health":
            return 200, {}
        if path.startswith("/_resolve/index/"):
            streams = [{"name": s, "backing_indices": [f".ds-{s}-1"]} for s in self.lifecycles]
            return 200, {"indices": [], "aliases": [], "data_streams": streams}
        if path.endswith("/_mapping") and method == "GET":
            mappings = read_yaml(FIELDS_TEMPLATE)["template"]["mappings"]
            return 200, {f".ds-{s}-1": {"mappings": mappings} for s in self.lifecycles}
        if match := re.fullmatch("/_data_stream/([^/]+)(/_lifecycle)?", path):
            return self.streams(method, match[1], body)
        if name == "_password":
            self.passwords[path.split("/")[-2]] = body["password"]
            return 200, {}
        if method == "PUT":
            self.passwords |= {name: body.pop("password")} if "password" in body else {}
            self.kept[path] = body
            return 200, {}
        if path not in self.kept:
            return 404, {"error": {"reason": "not found"}}
        if match := re.match("/_((?:index|component)_template)/", path):
            return 200, {f"{match[1]}s": [{"name": name, match[1]: self.kept[path]}]}
        return 200, {name: self.kept[path] | {"run_as": []}}

    def streams(self, method: str, name: str, body: Any) -> tuple[int, Any]:
        if method == "PUT":
            self.lifecycles[name] = {"enabled": True, **body}
        found = [{"name": s, "lifecycle": said} for s, said in self.lifecycles.items() if fnmatch(s, name)]
        return 200, {"data_streams": found}


@pytest.fixture
def full() -> Full:
    return Full()


@pytest.fixture
def config(full: Full) -> Iterator[Monitoring]:
    with served(full.answer) as url:
        yield Monitoring(elasticsearch_url=url)


def test_a_full_server_takes_everything_and_what_others_changed_is_put_right(config: Monitoring, full: Full) -> None:
    for _ in range(2):
        steps = list(setup.run_setup(config, ENVIRON))
        assert {one.outcome for one in steps} == {"done"} and "secret-" not in repr(steps)
        ours = {
            WRITER_USER: "secret-writer",
            READER_USER: "secret-reader",
            PASSAGES_USER: "secret-loader",
            SEARCH_USER: "secret-search",
        }
        assert full.passwords == ours | {"kibana_system": "secret-kibana"}
        assert {s: said["data_retention"] for s, said in full.lifecycles.items()} == {
            "logs-llmops.serving-default": "90d",
            "logs-llmops.text-default": "30d",
        }
        assert full.kept[f"/_security/role/{WRITER_USER}"] == read_yaml("roles")[WRITER_USER]
        assert {name: full.kept[f"/_security/user/{name}"]["roles"] for name in ours} == {name: [name] for name in ours}
        full.passwords[WRITER_USER] = "somebody else's"
        full.kept[f"/_security/role/{WRITER_USER}"]["indices"][0]["privileges"] = ["read"]
        full.kept[f"/_security/user/{READER_USER}"]["roles"] = ["superuser"]
        full.lifecycles["logs-llmops.text-default"]["data_retention"] = "3650d"


def test_elastics_own_client_sends_the_same(config: Monitoring, full: Full) -> None:
    list(setup.run_setup(config, ENVIRON))
    ours = [asked for asked in full.asked if asked[1] != "/_cluster/health"]
    client = Elasticsearch(config.elasticsearch_url, basic_auth=("elastic", "x"))
    full.lifecycles = {"logs-llmops.serving-default": {}, "logs-llmops.text-default": {}}
    for method, path, body in ours:
        full.asked.clear()
        send(client, method, path, dict(body or {}))
        assert [(m, p, b or None) for m, p, b in full.asked] == [(method, path, body or None)]


def send(client: Elasticsearch, method: str, path: str, body: dict[str, Any]) -> None:
    """The same by the client's functions, whose parameters are those of Elastic's specification."""
    if "_meta" in body:
        body["meta"] = body.pop("_meta")
    client = client.options(ignore_status=404)
    indices, security = client.indices, client.security
    functions = [
        (r"/_component_template/([^/]+)", client.cluster, "{}_component_template", "name"),
        (r"/_index_template/([^/]+)", indices, "{}_index_template", "name"),
        (r"/_security/role/([^/]+)", security, "{}_role", "name"),
        (r"/_security/user/([^/]+)/_password", security, "change_password", "username"),
        (r"/_security/user/([^/]+)", security, "{}_user", "username"),
        (r"/_data_stream/([^/]+)/_lifecycle", indices, "{}_data_lifecycle", "name"),
        (r"/_data_stream/([^/]+)", indices, "{}_data_stream", "name"),
        (r"/_resolve/index/([^/]+)", indices, "resolve_index", "name"),
        (r"/([^/]+)/_mapping", indices, "{}_mapping", "index"),
    ]
    called = [
        getattr(namespace, name.format(method.lower()))(**{parameter: match[1]}, **body)
        for pattern, namespace, name, parameter in functions
        if (match := re.fullmatch(pattern, path))
    ]
    assert len(called) == 1, path
