"""What is sent to Kibana and made of its answers, against a server that answers as Kibana's API says it does.

No Kibana runs in these tests: that it takes the objects has not been tried, and the docs say so.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from email import message_from_bytes
from typing import Any

import pytest

from llmops.config import Monitoring
from llmops.elk import kibana, setup
from llmops.elk.elasticsearch import STREAMS
from llmops.errors import ConfigError
from tests.served import Answer, served

OURS = "Kibana's data view and dashboards"
NOT_FOUND = {"error": {"statusCode": 404, "message": "Not found"}}


class Kibana:
    """Saved objects of a Kibana, in memory; Elasticsearch's paths are answered as by one without features."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], dict[str, Any]] = {}
        self.refused = ""  #: the title of an object that is not taken
        self.odd: dict[str, tuple[int, Any]] = {}  #: answers that are given in place of others, by path

    def answer(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        status, said = self.odd.get(path) or self._say(method, path, headers, body)
        return status, {}, (said if isinstance(said, str) else json.dumps(said)).encode()

    def _say(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> tuple[int, Any]:
        assert method != "POST" or headers["kbn-xsrf"]
        if path in ("/api/status", "/_cluster/health"):
            return 200, {}
        if path == "/api/saved_objects/_export":
            wishes = [(wish["type"], wish["id"]) for wish in json.loads(body)["objects"]]
            absent = [{"type": kind, "id": id} | NOT_FOUND for kind, id in wishes if (kind, id) not in self.objects]
            if absent:
                return 400, {"statusCode": 400, "message": "Bad Request", "attributes": {"objects": absent}}
            return 200, "\n".join(json.dumps(self.objects[wish]) for wish in wishes)
        if path == "/api/saved_objects/_import?overwrite=true":
            header = f"Content-Type: {headers['Content-Type']}\r\n\r\n".encode()
            (part,) = message_from_bytes(header + body).get_payload()
            assert part.get_filename().endswith(".ndjson")
            taken = [self._take(json.loads(line)) for line in part.get_payload(decode=True).decode().splitlines()]
            errors = [one for one in taken if one]
            return 200, {"success": not errors, "errors": errors}
        if method == "DELETE":
            if match := re.fullmatch(r"/api/saved_objects/([\w-]+)/([\w-]+)", path):
                del self.objects[match[1], match[2]]
            return 200, {}
        return 400, {"error": f"no handler found for uri [{path}] and method [{method}]"}

    def _take(self, said: dict[str, Any]) -> Any:
        if said["attributes"]["title"] == self.refused:
            return {"id": said["id"], "error": {"type": "conflict"}}
        self.objects[said["type"], said["id"]] = said
        return None


@pytest.fixture
def server() -> Kibana:
    return Kibana()


@pytest.fixture
def config(server: Kibana) -> Iterator[Monitoring]:
    with served(server.answer) as url:
        yield Monitoring(elasticsearch_url=url, kibana_url=url)


def ours(steps: Any) -> str:
    return {one.thing: one.what for one in steps}[OURS]


def test_dashboards_are_made_once_made_anew_where_they_changed_and_removed(config: Monitoring, server: Kibana) -> None:
    assert ours(setup.setup(config, {})) == "created"
    first, *_ = [one["id"] for one in kibana.saved_objects()]
    assert first == "llmops-events" and len(server.objects) == len(kibana.saved_objects())  # dashboards refer to it
    assert ours(setup.setup(config, {})) == "unchanged" and ours(setup.check(config, {})) == "ok"

    quality = ("dashboard", "llmops-quality")
    for named, attribute in ((quality, "description"), (("index-pattern", first), "fieldFormatMap")):
        server.objects[named]["attributes"][attribute] = "of an older version"
        assert ours(setup.check(config, {})) == "differs"
        assert ours(setup.setup(config, {})) == "changed" and ours(setup.check(config, {})) == "ok"
    del server.objects[quality]
    assert ours(setup.check(config, {})) == "differs" and ours(setup.setup(config, {})) == "changed"

    assert ours(setup.down(config, False, {})) == "removed"
    assert server.objects == {}
    assert ours(setup.down(config, False, {})) == "unchanged"


def test_an_object_that_is_not_taken_does_not_keep_the_others_out(config: Monitoring, server: Kibana) -> None:
    server.refused = "llmops: requests"
    steps = list(setup.setup(config, {}))
    (why,) = [one.why for one in steps if one.what == "cannot" and "Kibana" in one.thing]
    assert "llmops-requests" in why and "conflict" in why
    assert ("dashboard", "llmops-operations") in server.objects
    assert setup.status(steps) == setup.INCOMPLETE


def test_a_kibana_that_does_not_answer_is_said_and_the_rest_is_set_up(config: Monitoring, server: Kibana) -> None:
    steps = list(setup.setup(config.model_copy(update={"kibana_url": "http://127.0.0.1:9"}), {}))
    assert steps[-1].what == "cannot" and "Kibana" in steps[-1].thing and "does not answer" in steps[-1].why
    assert len(steps) > 3 and setup.status(steps) == setup.INCOMPLETE


EXPORT, ROLE = "/api/saved_objects/_export", "llmops_writer"
ODD = [  # path, answer; what is said of which thing, and why
    (f"/_security/role/{ROLE}", 200, {ROLE: {"metadata": {"version": "10583977f850"}}}, f"role {ROLE}", "differs", ""),
    (f"/_security/role/{ROLE}", 404, {}, f"role {ROLE}", "missing", ""),
    (f"/_data_stream/{STREAMS}/_lifecycle", 404, {}, "retention of data streams", "cannot", "404"),
    (f"/{STREAMS}/_mapping", 404, {}, "mapping of existing data streams", "cannot", "404"),
    (f"/{STREAMS}/_mapping", 200, "<html>", "mapping of existing data streams", "cannot", "<html>"),
    (EXPORT, 400, "<html>", OURS, "cannot", "400: <html>"),
    (EXPORT, 200, "<html>", OURS, "cannot", "<html>"),
    (EXPORT, 401, {}, OURS, "cannot", "set ELASTIC_PASSWORD (of ELASTIC_USERNAME, by default elastic) or"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "status", "answer", "thing", "what", "why"), ODD)
def test_odd_answers_are_said(
    config: Monitoring, server: Kibana, path: str, status: int, answer: Any, thing: str, what: str, why: str
) -> None:
    server.odd = {path: (status, answer)}
    (one,) = [one for one in setup.check(config, {}) if one.thing == thing]
    assert one.what == what and why in one.why


def test_a_server_that_is_no_elasticsearch_is_refused_at_once(config: Monitoring, server: Kibana) -> None:
    server.odd = {"/_cluster/health": (404, {})}
    with pytest.raises(ConfigError, match="elasticsearch_url"):
        list(setup.check(config, {}))
