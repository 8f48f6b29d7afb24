"""The things that are set up in Elasticsearch: templates and roles from files here, data streams, users."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.resources import files
from typing import Any, Literal

import yaml

from llmops.config import Monitoring
from llmops.elk.server import Cannot, Server, content

STREAMS, TEXT_STREAMS = "logs-llmops.*-*", "logs-llmops.text-"  #: all our data streams; how those of texts begin
WRITER, READER = "llmops_writer", "llmops_reader"
FIELDS, EVENTS, TEXTS = "llmops-fields.yaml", "llmops-events.yaml", "llmops-texts.yaml"  #: templates, and their files

State = Literal["same", "differs", "missing", "newer"]


class Thing:
    """One thing of the set-up. Its methods raise `Cannot` if the server refuses."""

    def __init__(self, server: Server, name: str) -> None:
        self.server, self.name = server, name

    def look(self) -> State:
        """Compare it with the server's."""
        return "same"

    def put(self) -> None:
        """Make the server's equal to it."""

    def remove(self) -> str:
        """Remove it; return the reason if it stays."""
        return "part of the data"


class Document(Thing):
    """A template or a role, with a version: it is read, put and deleted under one path."""

    def __init__(self, server: Server, kind: str, name: str, body: dict[str, Any]) -> None:
        super().__init__(server, f"{kind.replace('_', ' ')} {name}")
        self._kind, self._key, self._body = kind, name, body
        self._path = f"/_security/role/{name}" if kind == "role" else f"/_{kind}/{name}"

    def look(self) -> State:
        answer = self.server.find(self._path)
        if answer is None:
            return "missing"
        found = answer[self._key] if self._kind == "role" else answer[f"{self._kind}s"][0][self._kind]
        if _version(found) > _version(self._body):
            return "newer"
        return "same" if holds(found, self._body) else "differs"

    def put(self) -> None:
        self.server.ask("PUT", self._path, self._body)

    def remove(self) -> str:
        try:
            self.server.ask("DELETE", self._path)
        except Cannot as error:
            if "in use" in str(error):
                return "data streams use it; `--data` removes them"
            raise
        return ""


class StreamFields(Thing):
    """The fields of data streams that are there: where they are older, a new index has those of the template."""

    def __init__(self, server: Server, version: int) -> None:
        super().__init__(server, "mapping of existing data streams")
        self._version = version

    def look(self) -> State:
        return "differs" if self._older() else "same"

    def put(self) -> None:
        for stream in self._older():
            self.server.ask("POST", f"/{stream}/_rollover")

    def _older(self) -> list[str]:
        mappings = self.server.ask("GET", f"/{STREAMS}/_mapping")
        written = {stream: mappings[indices[-1]]["mappings"] for stream, indices in existing(self.server).items()}
        return [stream for stream, said in written.items() if said.get("_meta", {}).get("version", 0) < self._version]


class Retention(Thing):
    """The days that data streams which are there keep events; new ones have them from their template."""

    def __init__(self, server: Server, config: Monitoring) -> None:
        super().__init__(server, "retention of data streams")
        self._config = config

    def look(self) -> State:
        try:
            found = self.server.ask("GET", f"/_data_stream/{STREAMS}/_lifecycle")["data_streams"]
        except Cannot as error:
            raise Cannot(f"the server has no lifecycle, so events stay until somebody deletes them ({error})") from None
        return "same" if all(holds(s.get("lifecycle"), self._lifecycle(s["name"])) for s in found) else "differs"

    def put(self) -> None:
        for stream in existing(self.server):
            self.server.ask("PUT", f"/_data_stream/{stream}/_lifecycle", self._lifecycle(stream))

    def _lifecycle(self, stream: str) -> dict[str, str]:
        texts = stream.startswith(TEXT_STREAMS)
        return {"data_retention": f"{self._config.keep_text_days if texts else self._config.elasticsearch_days}d"}


class User(Thing):
    """A user with a role of ours; without one, a user that Elasticsearch has and that gets a password."""

    def __init__(self, server: Server, user: str, password: str, role: str = "") -> None:
        super().__init__(server, f"user {user}")
        self._path, self._login, self._role = f"/_security/user/{user}", (user, password), role

    def look(self) -> State:
        if self.server.find(self._path) is None:
            return "missing"
        answer = self.server.send("GET", "/_security/_authenticate", auth=self._login)
        good = answer.is_success and (not self._role or content(answer)["roles"] == [self._role])
        return "same" if good else "differs"

    def put(self) -> None:
        body = {"password": self._login[1]}
        if self._role:
            self.server.ask("PUT", self._path, {**body, "roles": [self._role], "metadata": {"managed_by": "llmops"}})
        else:
            self.server.ask("PUT", f"{self._path}/_password", body)

    def remove(self) -> str:
        if not self._role:
            return "a user of Elasticsearch itself"
        self.server.ask("DELETE", self._path)
        return ""


class Events(Thing):
    """The data streams themselves, which only `down --data` removes."""

    def remove(self) -> str:
        self.server.ask("DELETE", f"/_data_stream/{STREAMS}")
        return ""


def existing(server: Server) -> dict[str, list[str]]:
    """Return our data streams that are there, each with its indices; the last is the one that is written."""
    found = server.ask("GET", f"/_resolve/index/{STREAMS}")["data_streams"]
    return {stream["name"]: stream["backing_indices"] for stream in found}


def things(server: Server, config: Monitoring, environ: Mapping[str, str]) -> list[Thing]:
    """Return all that is set up in Elasticsearch, in order; users where the environment has their passwords."""
    fields = read(FIELDS)
    found: list[Thing] = [Document(server, "component_template", FIELDS.removesuffix(".yaml"), fields)]
    for name, days in ((EVENTS, config.elasticsearch_days), (TEXTS, config.keep_text_days)):
        body = read(name)
        body["template"]["lifecycle"] = {"data_retention": f"{days}d"}
        found.append(Document(server, "index_template", name.removesuffix(".yaml"), body))
    found += [StreamFields(server, fields["version"]), Retention(server, config)]
    found += [Document(server, "role", name, role) for name, role in read("roles.yaml").items()]
    for variable, user, role_name in (
        ("ELASTICSEARCH_WRITER_PASSWORD", WRITER, WRITER),
        ("ELASTICSEARCH_READER_PASSWORD", READER, READER),
        ("KIBANA_SYSTEM_PASSWORD", "kibana_system", ""),
    ):
        if environ.get(variable):
            found.append(User(server, user, environ[variable], role_name))
    return found


def read(name: str) -> Any:
    """Return what a file of this folder says."""
    return yaml.safe_load(files("llmops.elk").joinpath(name).read_text(encoding="utf-8"))


def holds(found: Any, wanted: Any) -> bool:
    """Tell whether a server's object has all of `wanted`: servers add defaults, and write numbers as texts."""
    return set(_leaves(wanted)) <= set(_leaves(found))


def _leaves(thing: Any, path: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(thing, dict | list):
        for name, value in thing.items() if isinstance(thing, dict) else enumerate(thing):
            yield from _leaves(value, f"{path}.{name}")
    else:
        yield path, str(thing).lower()


def _version(body: Mapping[str, Any]) -> int:
    found = str(body.get("version") or body.get("metadata", {}).get("version"))
    return int(found) if found.isdecimal() else 0  # roles of earlier releases have a digest
