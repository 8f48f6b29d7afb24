"""What is sent to Kibana and made of its answers, against a server that answers as Kibana's API says it does.

No Kibana runs in these tests: that it takes the objects has not been tried, and the docs say so.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from llmops.config import Monitoring
from llmops.elk import kibana, setup

NOT_FOUND = {"error": {"statusCode": 404, "message": "Not found"}}


class Kibana(BaseHTTPRequestHandler):
    """Saved objects of a Kibana, in memory; Elasticsearch's paths are answered as by one without features."""

    objects: dict[tuple[str, str], dict[str, Any]] = {}
    refused = ""  #: the title of an object that is not taken

    def do_GET(self) -> None:
        if self.path in ("/api/status", "/_cluster/health"):
            self._say(200, {})
        else:
            self._say(400, {"error": f"no handler found for uri [{self.path}] and method [GET]"})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        assert self.headers["kbn-xsrf"]
        if self.path == "/api/saved_objects/_export":
            (wish,) = json.loads(body)["objects"]
            found = self.objects.get((wish["type"], wish["id"]))
            absent = {"statusCode": 400, "message": "Bad Request", "attributes": {"objects": [wish | NOT_FOUND]}}
            self._say(200, found) if found else self._say(400, absent)
        elif self.path == "/api/saved_objects/_import?overwrite=true":
            header = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
            (part,) = message_from_bytes(header + body).get_payload()
            assert part.get_filename().endswith(".ndjson")
            for line in part.get_payload(decode=True).decode().splitlines():
                self._take(json.loads(line))
        else:
            self._say(400, {"message": "bad"})

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._say(400, {"error": "no handler"})

    def do_DELETE(self) -> None:
        if match := re.fullmatch(r"/api/saved_objects/([\w-]+)/([\w-]+)", self.path):
            del self.objects[match[1], match[2]]
        self._say(200, {})

    def _take(self, said: dict[str, Any]) -> None:
        if said["attributes"]["title"] == self.refused:
            self._say(200, {"success": False, "errors": [{"error": {"type": "conflict"}}]})
            return
        self.objects[said["type"], said["id"]] = said
        self._say(200, {"success": True, "successCount": 1})

    def _say(self, status: int, said: Any) -> None:
        body = json.dumps(said).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *said: Any) -> None:
        """Nothing."""


@pytest.fixture
def config() -> Iterator[Monitoring]:
    Kibana.objects, Kibana.refused = {}, ""
    with ThreadingHTTPServer(("127.0.0.1", 0), Kibana) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        yield Monitoring(elasticsearch_url=url, kibana_url=url)
        server.shutdown()


def ours(steps: Any) -> dict[str, str]:
    """What is said of Kibana's things."""
    return {one.thing: one.what for one in steps if one.thing.split()[0] in ("index-pattern", "dashboard")}


def test_dashboards_are_made_once_made_anew_where_they_changed_and_removed(config: Monitoring) -> None:
    first = ours(setup.setup(config, {}))
    assert set(first.values()) == {"created"} and len(first) == len(kibana.saved_objects())
    assert next(iter(first)) == "index-pattern llmops-events"  # dashboards refer to it
    assert set(ours(setup.setup(config, {})).values()) == {"unchanged"}
    assert set(ours(setup.check(config, {})).values()) == {"ok"}

    Kibana.objects["dashboard", "llmops-quality"]["attributes"]["description"] = "of an older version"
    Kibana.objects["index-pattern", "llmops-events"]["attributes"]["fieldFormatMap"] = "{}"
    changed = {thing for thing, what in ours(setup.setup(config, {})).items() if what == "changed"}
    assert changed == {"index-pattern llmops-events", "dashboard llmops-quality"}

    assert set(ours(setup.down(config, False, {})).values()) == {"removed"}
    assert Kibana.objects == {}
    assert set(ours(setup.down(config, False, {})).values()) == {"unchanged"}


def test_an_object_that_is_not_taken_does_not_keep_the_others_out(config: Monitoring) -> None:
    Kibana.refused = "llmops: requests"
    steps = list(setup.setup(config, {}))
    assert [thing for thing, what in ours(steps).items() if what == "cannot"] == ["dashboard llmops-requests"]
    assert ("dashboard", "llmops-operations") in Kibana.objects
    assert setup.status(steps) == setup.INCOMPLETE


def test_a_kibana_that_does_not_answer_is_said_and_elasticsearch_is_set_up_all_the_same(config: Monitoring) -> None:
    steps = list(setup.setup(config.model_copy(update={"kibana_url": "http://127.0.0.1:9"}), {}))
    assert steps[-1].what == "cannot" and "Kibana" in steps[-1].thing and "does not answer" in steps[-1].why
    assert len(steps) > 3 and setup.status(steps) == setup.INCOMPLETE
