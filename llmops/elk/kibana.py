"""The things that are set up in Kibana: a data view, dashboards and alert rules."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

import yaml

from llmops.elk.elasticsearch import State, Thing
from llmops.elk.objects import digest, holds
from llmops.elk.server import Cannot, Server, reason


class SavedObject:
    """A data view or a dashboard, as `kibana.ndjson` has it. A dashboard says its version in its description."""

    def __init__(self, server: Server, said: dict[str, Any]) -> None:
        self.name, self._server, self._said = f"{said['type']} {said['id']}", server, said
        # Kibana may change a dashboard's panels as it takes them in, so of a dashboard its version tells.
        names = ("title", "description") if said["type"] == "dashboard" else said["attributes"]
        self._marks = {name: said["attributes"][name] for name in names}

    def look(self) -> State:
        """See `Thing`."""
        named = {"type": self._said["type"], "id": self._said["id"]}
        wish = {"objects": [named], "excludeExportDetails": True}
        status, said = self._server.ask("POST", "/api/saved_objects/_export", wish)
        failed = said["attributes"]["objects"] if status == 400 and "attributes" in said else []
        if failed and all(one["error"]["statusCode"] == 404 for one in failed):
            return "missing"
        if status >= 400:
            raise Cannot(reason(said))
        found = said if isinstance(said, dict) else json.loads(said.splitlines()[0])
        return "same" if holds(found["attributes"], self._marks) else "differs"

    def put(self) -> None:
        """See `Thing`."""
        file = ("llmops.ndjson", json.dumps(self._said), "application/ndjson")
        said = self._server.do("POST", "/api/saved_objects/_import", params={"overwrite": "true"}, files={"file": file})
        if not said["success"]:
            raise Cannot(reason(said.get("errors", said)))

    def remove(self) -> str:
        """See `Thing`."""
        self._server.do("DELETE", f"/api/saved_objects/{self._said['type']}/{self._said['id']}")
        return ""


class Rule:
    """An alert rule, of `rules.yaml`; its version is among its tags."""

    def __init__(self, server: Server, rule: dict[str, Any]) -> None:
        self.name, self._server, self._id = f"rule {rule['name']}", server, rule["id"]
        said = {name: value for name, value in rule.items() if name != "id"}
        said["params"] = {**said["params"], "esQuery": json.dumps(said["params"]["esQuery"])}
        self._said = {**said, "tags": ["llmops", f"version {digest(said)}"], "actions": []}

    def look(self) -> State:
        """See `Thing`."""
        status, said = self._server.ask("GET", f"/api/alerting/rule/{self._id}")
        if status == 404:
            return "missing"
        if status >= 400:
            raise Cannot(reason(said))
        return "same" if set(self._said["tags"]) <= set(said["tags"]) else "differs"

    def put(self) -> None:
        """See `Thing`; what a person has added to be done on an alert stays."""
        status, said = self._server.ask("GET", f"/api/alerting/rule/{self._id}")
        if status == 404:
            self._server.do("POST", f"/api/alerting/rule/{self._id}", self._said)
            return
        kept = {name: self._said[name] for name in ("name", "tags", "schedule", "params")}
        self._server.do("PUT", f"/api/alerting/rule/{self._id}", {**kept, "actions": said.get("actions", [])})

    def remove(self) -> str:
        """See `Thing`."""
        self._server.do("DELETE", f"/api/alerting/rule/{self._id}")
        return ""


def saved_objects() -> list[dict[str, Any]]:
    """The data view and the dashboards, compiled from `docker/kibana/` in the repository."""
    text = files("llmops.elk").joinpath("kibana.ndjson").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def rules() -> list[dict[str, Any]]:
    """The alert rules."""
    found: list[dict[str, Any]] = yaml.safe_load(files("llmops.elk").joinpath("rules.yaml").read_text(encoding="utf-8"))
    return found


def things(server: Server) -> list[Thing]:
    """All that is set up in Kibana, what is referred to first."""
    return [
        *(SavedObject(server, said) for said in saved_objects()),
        *(Rule(server, rule) for rule in rules()),
    ]
