"""The things that are set up in Elasticsearch. Each looks whether it is there, is put, and removed."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatch
from typing import Any, Literal, Protocol

from llmops.elk.objects import INDEXER, READER, STREAMS, WRITER, holds, mappings, roles, stamped, templates
from llmops.elk.server import Cannot, Server, reason

State = Literal["same", "differs", "missing"]


class Thing(Protocol):
    """What is set up. All raise `Cannot` if the server does not take it."""

    name: str

    def look(self) -> State:
        """Whether it is there as it is to be."""

    def put(self) -> None:
        """Make it as it is to be."""

    def remove(self) -> str:
        """Take it away; why it stays, if it has to."""


class Document:
    """An object that has a path, under which it is read, put and deleted: an index template, a role."""

    def __init__(self, server: Server, kind: str, path: str, name: str, body: dict[str, Any]) -> None:
        self.name, self._server, self._path, self._key, self._body = (
            f"{kind} {name}",
            server,
            f"{path}/{name}",
            name,
            body,
        )

    def look(self) -> State:
        """See `Thing`."""
        status, said = self._server.ask("GET", self._path)
        if status == 404:
            return "missing"
        if status >= 400:
            raise Cannot(reason(said))
        found = said["index_templates"][0]["index_template"] if "index_templates" in said else said[self._key]
        return "same" if holds(found, self._body) else "differs"

    def put(self) -> None:
        """See `Thing`."""
        self._server.do("PUT", self._path, self._body)

    def remove(self) -> str:
        """See `Thing`; a template that data streams use stays with them."""
        status, said = self._server.ask("DELETE", self._path)
        if status == 400 and "in use" in reason(said):
            return "data streams use it; `--data` removes them"
        if status >= 400:
            raise Cannot(reason(said))
        return ""


class Streams:
    """The data streams that are there: fields that are new to them."""

    name = "mapping of existing data streams"

    def __init__(self, server: Server) -> None:
        self._server = server

    def look(self) -> State:
        """See `Thing`."""
        found = self._server.do("GET", f"/{STREAMS}/_mapping")
        written = [indices[-1] for indices in existing(self._server).values()]
        wanted = mappings()["properties"]
        good = all(holds(_flat(found[index]["mappings"].get("properties", {})), wanted) for index in written)
        return "same" if good else "differs"

    def put(self) -> None:
        """See `Thing`; a stream whose field has another type gets a new index, where the template's holds."""
        for stream in existing(self._server):
            status, said = self._server.ask(
                "PUT",
                f"/{stream}/_mapping",
                {"properties": mappings()["properties"]},
                params={"write_index_only": True},
            )
            if status >= 400:
                self._server.do("POST", f"/{stream}/_rollover")

    def remove(self) -> str:
        """See `Thing`."""
        return "part of the data"


class Retention:
    """For how long the data streams that are there keep events; new ones have it from their template."""

    name = "retention of data streams"

    def __init__(self, server: Server, days: Mapping[str, str]) -> None:
        self._server, self._days = server, days

    def look(self) -> State:
        """See `Thing`."""
        try:
            found = self._server.do("GET", f"/_data_stream/{STREAMS}/_lifecycle")["data_streams"]
        except Cannot as error:
            raise Cannot(f"the server has no lifecycle, so events stay until somebody deletes them ({error})") from None
        good = all(holds(s.get("lifecycle", {}), self._lifecycle(s["name"])) for s in found)
        return "same" if good else "differs"

    def put(self) -> None:
        """See `Thing`."""
        for stream in existing(self._server):
            self._server.do("PUT", f"/_data_stream/{stream}/_lifecycle", self._lifecycle(stream))

    def remove(self) -> str:
        """See `Thing`."""
        return "part of the data"

    def _lifecycle(self, stream: str) -> dict[str, str]:
        return {"data_retention": [days for pattern, days in self._days.items() if fnmatch(stream, pattern)][-1]}


class User:
    """A user with a role of ours, or a password for one that Elasticsearch has."""

    def __init__(self, server: Server, user: str, password: str, role: str = "") -> None:
        self.name, self._server, self._user, self._password, self._role = f"user {user}", server, user, password, role

    def look(self) -> State:
        """See `Thing`."""
        status, said = self._server.ask("GET", f"/_security/user/{self._user}")
        if status == 404:
            return "missing"
        if status >= 400:
            raise Cannot(reason(said))
        known = self._server.knows(self._user, self._password)
        return "same" if known is not None and (not self._role or known == [self._role]) else "differs"

    def put(self) -> None:
        """See `Thing`."""
        if not self._role:
            self._server.do("PUT", f"/_security/user/{self._user}/_password", {"password": self._password})
            return
        said = {"roles": [self._role], "metadata": {"managed_by": "llmops"}, "password": self._password}
        self._server.do("PUT", f"/_security/user/{self._user}", said)

    def remove(self) -> str:
        """See `Thing`."""
        if not self._role:
            return "a user of Elasticsearch itself"
        self._server.do("DELETE", f"/_security/user/{self._user}")
        return ""


def existing(server: Server) -> dict[str, list[str]]:
    """Our data streams that are there, with their indices; the last is the one that is written."""
    found = server.do("GET", f"/_resolve/index/{STREAMS}")["data_streams"]
    return {stream["name"]: stream["backing_indices"] for stream in found}


def things(server: Server, config: Any, environ: Mapping[str, str]) -> list[Thing]:
    """All that is set up in Elasticsearch; users where the environment has their passwords."""
    wanted = templates(config)
    found: list[Thing] = [Document(server, "index template", "/_index_template", *named) for named in wanted.items()]
    days = {t["index_patterns"][0]: t["template"]["lifecycle"]["data_retention"] for t in wanted.values()}
    found += [Streams(server), Retention(server, days)]
    for name, role in roles().items():
        found.append(Document(server, "role", "/_security/role", name, stamped(role, "metadata")))
    for variable, user, role_name in (
        ("ELASTICSEARCH_WRITER_PASSWORD", WRITER, WRITER),
        ("ELASTICSEARCH_READER_PASSWORD", READER, READER),
        ("ELASTICSEARCH_INDEXER_PASSWORD", INDEXER, INDEXER),
        ("KIBANA_SYSTEM_PASSWORD", "kibana_system", ""),
    ):
        if environ.get(variable):
            found.append(User(server, user, environ[variable], role_name))
    return found


def _flat(properties: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Fields by their dotted names, as the registry has them; a server answers with them nested."""
    flat: dict[str, Any] = {}
    for name, field in properties.items():
        if "properties" in field and field.get("enabled", True):
            flat |= _flat(field["properties"], f"{path}{name}.")
        else:
            flat[path + name] = field
    return flat
