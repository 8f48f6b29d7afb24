"""The data view and the dashboards of Kibana, compiled from `docker/kibana/` in the repository."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

from llmops.elk.elasticsearch import State, Thing, holds
from llmops.elk.server import Cannot, Server, content


class SavedObjects(Thing):
    """All of `kibana.ndjson`. A dashboard has its version in its description."""

    def __init__(self, server: Server) -> None:
        super().__init__(server, "Kibana's data view and dashboards")

    def look(self) -> State:
        wanted = saved_objects()
        wish = {"objects": [{"type": one["type"], "id": one["id"]} for one in wanted], "excludeExportDetails": True}
        answer = self.server.send("POST", "/api/saved_objects/_export", wish)
        if answer.status_code == 400 and '"objects"' in answer.text:
            missing = answer.json()["attributes"]["objects"]
            return "missing" if len(missing) == len(wanted) else "differs"
        found = {one["id"]: one["attributes"] for one in content(answer, lines=True)}
        return "same" if all(holds(found.get(one["id"]), _marks(one)) for one in wanted) else "differs"

    def put(self) -> None:
        file = ("llmops.ndjson", _text(), "application/ndjson")
        path, options = "/api/saved_objects/_import", {"params": {"overwrite": "true"}, "files": {"file": file}}
        said = self.server.ask("POST", path, **options)
        if not said["success"]:  # the others are taken all the same
            raise Cannot(json.dumps(said.get("errors", said))[:300])

    def remove(self) -> str:
        for one in reversed(saved_objects()):
            self.server.ask("DELETE", f"/api/saved_objects/{one['type']}/{one['id']}")
        return ""


def saved_objects() -> list[dict[str, Any]]:
    """Return the data view and the dashboards, in the order in which they refer to each other."""
    return [json.loads(line) for line in _text().splitlines()]


def _text() -> str:
    return files("llmops.elk").joinpath("kibana.ndjson").read_text(encoding="utf-8")


def _marks(one: dict[str, Any]) -> dict[str, Any]:
    """Return the attributes to compare; Kibana may change a dashboard's panels, so its version tells."""
    names = ("title", "description") if one["type"] == "dashboard" else one["attributes"]
    return {name: one["attributes"][name] for name in names}
