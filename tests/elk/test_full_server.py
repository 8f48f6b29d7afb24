"""What only a full server takes: lifecycle, roles and users by API, removal of data streams.

No such server runs in these tests. A stand-in keeps what it is told, and Elastic's own client, which has a parameter
for each that the API knows, sends it the same: methods, paths and bodies of ours must be those of the client.
"""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Iterator
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

import pytest
from elasticsearch import Elasticsearch

from llmops.config import Monitoring
from llmops.elk import setup
from llmops.elk.elasticsearch import FIELDS, READER, STREAMS, WRITER, read

ENVIRON = {
    "ELASTIC_PASSWORD": "secret-boss",
    "ELASTICSEARCH_WRITER_PASSWORD": "secret-writer",
    "ELASTICSEARCH_READER_PASSWORD": "secret-reader",
    "KIBANA_SYSTEM_PASSWORD": "secret-kibana",
}
Asked = tuple[str, str, Any]


class Full(BaseHTTPRequestHandler):
    """Answers as the API says; keeps templates, roles, users, lifecycles and two data streams."""

    kept: dict[str, Any] = {}
    passwords: dict[str, str] = {}
    lifecycles: dict[str, dict[str, Any]] = {}
    asked: list[Asked] = []

    def answer(self) -> None:
        path = unquote(self.path.split("?")[0])
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else None
        self.asked.append((self.command, path, body))
        status, said = self.say(path, body)
        text = json.dumps(said).encode()
        self.send_response(status)
        self.send_header("X-Elastic-Product", "Elasticsearch")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_PUT = do_POST = do_DELETE = answer

    def say(self, path: str, body: Any) -> tuple[int, Any]:
        """The status and what is said."""
        name = path.rpartition("/")[2]
        if path == "/_cluster/health":
            return 200, {}
        if path == "/_security/_authenticate":
            user, _, password = base64.b64decode(self.headers["Authorization"].split()[1]).decode().partition(":")
            if self.passwords.get(user) != password:
                return 401, {"error": "no"}
            return 200, {"username": user, "roles": self.kept[f"/_security/user/{user}"]["roles"]}
        if path.startswith("/_resolve/index/"):
            streams = [{"name": s, "backing_indices": [f".ds-{s}-1"]} for s in self.lifecycles]
            return 200, {"indices": [], "aliases": [], "data_streams": streams}
        if path.endswith("/_mapping") and self.command == "GET":
            mappings = read(FIELDS)["template"]["mappings"]
            return 200, {f".ds-{s}-1": {"mappings": mappings} for s in self.lifecycles}
        if match := re.fullmatch("/_data_stream/([^/]+)(/_lifecycle)?", path):
            return self.streams(match[1], body)
        if name == "_password":
            self.passwords[path.split("/")[-2]] = body["password"]
            return 200, {}
        if self.command == "PUT":
            self.passwords |= {name: body.pop("password")} if "password" in body else {}
            self.kept[path] = body
            return 200, {}
        if path not in self.kept:
            return 404, {"error": {"reason": "not found"}}
        if self.command == "DELETE":
            del self.kept[path]
            return 200, {}
        if match := re.match("/_((?:index|component)_template)/", path):
            return 200, {f"{match[1]}s": [{"name": name, match[1]: self.kept[path]}]}
        return 200, {name: self.kept[path] | {"run_as": []}}

    def streams(self, name: str, body: Any) -> tuple[int, Any]:
        """What is said of data streams."""
        if self.command == "DELETE":
            self.lifecycles.clear()
        elif self.command == "PUT":
            self.lifecycles[name] = {"enabled": True, **body}
        found = [{"name": s, "lifecycle": said} for s, said in self.lifecycles.items() if fnmatch(s, name)]
        return 200, {"data_streams": found}

    def log_message(self, *said: Any) -> None:
        pass


@pytest.fixture
def config() -> Iterator[Monitoring]:
    Full.kept = {"/_security/user/kibana_system": {"roles": ["kibana_system"]}}
    Full.passwords, Full.asked = {}, []
    Full.lifecycles = {f"logs-llmops.{name}-default": {"enabled": True} for name in ("serving", "text")}
    with ThreadingHTTPServer(("127.0.0.1", 0), Full) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield Monitoring(elasticsearch_url=f"http://127.0.0.1:{server.server_port}")
        server.shutdown()


def said(steps: Any) -> dict[str, str]:
    return {one.thing: one.what for one in steps}


def test_a_full_server_takes_everything_and_then_nothing_is_left_to_do(config: Monitoring) -> None:
    first = list(setup.setup(config, ENVIRON))
    assert setup.status(first) == 0
    assert Full.passwords == {WRITER: "secret-writer", READER: "secret-reader", "kibana_system": "secret-kibana"}
    assert {s: said["data_retention"] for s, said in Full.lifecycles.items()} == {
        "logs-llmops.serving-default": "90d",
        "logs-llmops.text-default": "30d",
    }
    again = list(setup.setup(config, ENVIRON))
    assert {one.what for one in again} == {"unchanged"} and setup.status(again) == 0
    checked = list(setup.check(config, ENVIRON))
    assert {one.what for one in checked} == {"ok"} and "secret-" not in repr([*first, *again, *checked])


def test_another_password_role_or_number_of_days_is_put_right(config: Monitoring) -> None:
    list(setup.setup(config, ENVIRON))
    Full.passwords[WRITER] = "somebody else's"
    Full.kept[f"/_security/role/{WRITER}"]["indices"][0]["privileges"] = ["read"]
    Full.kept[f"/_security/user/{READER}"]["roles"] = ["superuser"]
    Full.lifecycles["logs-llmops.text-default"]["data_retention"] = "3650d"
    checked = list(setup.check(config, ENVIRON))
    wrong = {f"user {WRITER}", f"user {READER}", f"role {WRITER}", "retention of data streams"}
    assert {one.thing for one in checked if one.what != "ok"} == wrong and setup.status(checked) == 1
    assert {one.thing for one in setup.setup(config, ENVIRON) if one.what == "changed"} == wrong
    assert setup.status(list(setup.check(config, ENVIRON))) == 0


def test_down_removes_what_was_made_and_events_only_when_told(config: Monitoring) -> None:
    list(setup.setup(config, ENVIRON))
    steps = said(setup.down(config, False, ENVIRON))
    assert set(Full.kept) == {"/_security/user/kibana_system"} and len(Full.lifecycles) == 2
    assert steps["user kibana_system"] == steps["retention of data streams"] == "kept"
    last = list(setup.down(config, True, ENVIRON))
    assert said(last)[f"events ({STREAMS})"] == "removed" and not Full.lifecycles
    assert "secret-" not in repr(last)


def test_elastics_own_client_sends_the_same(config: Monitoring) -> None:
    list(setup.setup(config, ENVIRON))
    list(setup.down(config, True, ENVIRON))
    ours = [asked for asked in Full.asked if asked[1] not in ("/_cluster/health", "/_security/_authenticate")]
    client = Elasticsearch(config.elasticsearch_url, basic_auth=("elastic", "x"))
    Full.lifecycles = {"logs-llmops.serving-default": {}, "logs-llmops.text-default": {}}
    for method, path, body in ours:
        Full.asked.clear()
        send(client, method, path, dict(body or {}))
        assert [(m, p, b or None) for m, p, b in Full.asked] == [(method, path, body or None)]


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
