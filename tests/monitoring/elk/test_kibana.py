"""What is sent to Kibana and made of its answers, against a server that answers as Kibana's API says it does.

No Kibana runs in these tests: that it takes the objects has not been tried, and the docs say so.
"""

import json
from collections.abc import Iterator, Mapping
from email import message_from_bytes
from typing import Any

import pytest

from llmops.config import Monitoring
from llmops.frame.errors import ConfigError
from llmops.monitoring.elk import setup
from llmops.monitoring.elk.setup import STREAMS
from tests.served import Answer, served

ROLE = "_security/role/llmops_writer"


class Kibana:
    """Saved objects of a Kibana, in memory; Elasticsearch's paths are answered as by one without features."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], dict[str, Any]] = {}
        self.refused = ""  #: the title of an object that is not taken
        self.documents: dict[str, Any] = {}  #: templates and roles, by path
        self.imports = 0
        self.odd: dict[str, tuple[int, Any]] = {}  #: answers that are given in place of others, by path

    def answer(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        status, answer = self.odd.get(path) or self._say(method, path, headers, body)
        return status, {}, (answer if isinstance(answer, str) else json.dumps(answer)).encode()

    def _say(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> tuple[int, Any]:
        assert method != "POST" or headers["kbn-xsrf"]
        if path in ("/_cluster/health",):
            return 200, {}
        if path.startswith(("/_component_template/", "/_index_template/", "/_security/role/")):
            *_, kind, name = path.split("/")
            if method == "PUT":
                self.documents[path] = json.loads(body)
            found = self.documents.get(path)
            kind = kind.removeprefix("_")
            if found is None:
                return 404, {}
            return 200, {name: found} if kind == "role" else {f"{kind}s": [{"name": name, kind: found}]}
        if path == "/api/saved_objects/_export":
            wishes = [(wish["type"], wish["id"]) for wish in json.loads(body)["objects"]]
            absent = [{"type": kind, "id": id} for kind, id in wishes if (kind, id) not in self.objects]
            if absent:
                return 400, {"statusCode": 400, "message": "Bad Request", "attributes": {"objects": absent}}
            return 200, "\n".join(json.dumps(self.objects[wish]) for wish in wishes)
        if path == "/api/saved_objects/_import?overwrite=true":
            header = f"Content-Type: {headers['Content-Type']}\r\n\r\n".encode()
            (part,) = message_from_bytes(header + body).get_payload()
            assert part.get_filename().endswith(".ndjson")
            taken = [self._take(json.loads(line)) for line in part.get_payload(decode=True).decode().splitlines()]
            errors, self.imports = [one for one in taken if one], self.imports + 1
            return 200, {"success": not errors, "errors": errors}
        return 400, {"error": f"no handler found for uri [{path}] and method [{method}]"}

    def _take(self, saved: dict[str, Any]) -> Any:
        if saved["attributes"]["title"] == self.refused:
            return {"id": saved["id"], "error": {"type": "conflict"}}
        self.objects[saved["type"], saved["id"]] = saved
        return None


@pytest.fixture
def server() -> Kibana:
    return Kibana()


@pytest.fixture
def config(server: Kibana) -> Iterator[Monitoring]:
    with served(server.answer) as url:
        yield Monitoring(elasticsearch_url=url, kibana_url=url)


def find_kibana_outcome(steps: Any) -> str:
    return {one.step: one.outcome for one in steps}[setup.KIBANA_STEP]


def test_dashboards_are_made_in_the_order_of_their_references(config: Monitoring, server: Kibana) -> None:
    assert find_kibana_outcome(setup.run_setup(config, {})) == "done"
    assert list(server.objects)[0] == ("index-pattern", "llmops-events")
    assert len(server.objects) == len(setup.read_saved_objects())


def test_dashboards_of_this_version_are_left_as_users_have_edited_them(config: Monitoring, server: Kibana) -> None:
    list(setup.run_setup(config, {}))
    quality = server.objects["dashboard", "llmops-quality"]["attributes"]
    quality["panelsJSON"] = "[]"
    assert find_kibana_outcome(setup.run_setup(config, {})) == "unchanged" and quality["panelsJSON"] == "[]"
    quality["description"] = "of an older version"
    assert find_kibana_outcome(setup.run_setup(config, {})) == "done" and server.imports == 2
    del server.objects["dashboard", "llmops-quality"]
    assert (
        find_kibana_outcome(setup.run_setup(config, {})) == "done"
        and find_kibana_outcome(setup.run_setup(config, {})) == "unchanged"
    )


@pytest.mark.parametrize("path", ["_component_template/llmops-fields", "_index_template/llmops-events", ROLE])
def test_a_newer_version_on_the_server_is_left_alone(config: Monitoring, server: Kibana, path: str) -> None:
    list(setup.run_setup(config, {}))
    found = server.documents[f"/{path}"]
    versioned = found["metadata"] if path == ROLE else found
    versioned["version"] += 1
    for what in ("newer", "done"):
        (one,) = [one for one in setup.run_setup(config, {}) if one.step.endswith(path.split("/")[-1])]
        assert one.outcome == what and (server.documents[f"/{path}"] is found) == (what == "newer")
        versioned["version"] -= 1


def test_an_object_that_is_not_taken_does_not_keep_the_others_out(config: Monitoring, server: Kibana) -> None:
    server.refused = "llmops: requests"
    steps = list(setup.run_setup(config, {}))
    (why,) = [one.reason for one in steps if one.outcome == "cannot" and "Kibana" in one.step]
    assert "llmops-requests" in why and "conflict" in why
    assert ("dashboard", "llmops-operations") in server.objects


def test_a_kibana_that_does_not_answer_is_said_and_the_rest_is_set_up(config: Monitoring, server: Kibana) -> None:
    steps = list(setup.run_setup(config.model_copy(update={"kibana_url": "http://127.0.0.1:9"}), {}))
    assert steps[-1].outcome == "cannot" and "Kibana" in steps[-1].step and "does not answer" in steps[-1].reason
    assert len(steps) > 3


IMPORT = "/api/saved_objects/_import?overwrite=true"
ODD = [  # path, answer; which thing cannot be set up, and why
    (f"/_data_stream/{STREAMS}/_lifecycle", 404, {}, "retention of data streams", "404"),
    (f"/{STREAMS}/_mapping", 404, {}, "mapping of existing data streams", "404"),
    (f"/{STREAMS}/_mapping", 200, "<html>", "mapping of existing data streams", "<html>"),
    (IMPORT, 400, "<html>", setup.KIBANA_STEP, "400: <html>"),
    (IMPORT, 200, "<html>", setup.KIBANA_STEP, "<html>"),
    (IMPORT, 401, {}, setup.KIBANA_STEP, "set ELASTIC_PASSWORD (of ELASTIC_USERNAME, by default elastic) or"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "status", "answer", "thing", "why"), ODD)
def test_odd_answers_are_said(
    config: Monitoring, server: Kibana, path: str, status: int, answer: Any, thing: str, why: str
) -> None:
    server.odd = {path: (status, answer)}
    (one,) = [one for one in setup.run_setup(config, {}) if one.step == thing]
    assert one.outcome == "cannot" and why in one.reason


def test_a_server_that_is_no_elasticsearch_is_refused_at_once(config: Monitoring, server: Kibana) -> None:
    server.odd = {"/_cluster/health": (404, {})}
    with pytest.raises(ConfigError, match="elasticsearch_url"):
        list(setup.run_setup(config, {}))
