"""The things that are set up in Kibana: a data view and dashboards."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

from llmops.elk.elasticsearch import State, Thing
from llmops.elk.objects import holds
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


def saved_objects() -> list[dict[str, Any]]:
    """The data view and the dashboards, compiled from `docker/kibana/` in the repository."""
    text = files("llmops.elk").joinpath("kibana.ndjson").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def things(server: Server) -> list[Thing]:
    """Return all that is set up in Kibana, in the order in which things refer to each other."""
    return [SavedObject(server, said) for said in saved_objects()]
