"""Set up Elasticsearch and Kibana, with a line about each thing.

Templates and roles are files here, each with its version; `kibana.ndjson` is compiled from `docker/kibana/`. A newer
version on the server is left alone, and so are Kibana's objects if their dashboards have the same versions.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from importlib.resources import files
from typing import Any, Literal, NamedTuple

import yaml

from llmops.config import Monitoring
from llmops.elk.server import Cannot, Server
from llmops.errors import ConfigError, LlmopsError

STREAMS, TEXT_STREAMS = "logs-llmops.*-*", "logs-llmops.text-"  #: all our data streams; how those of texts begin
WRITER, READER = "llmops_writer", "llmops_reader"
FIELDS, EVENTS, TEXTS = "llmops-fields", "llmops-events", "llmops-texts"  #: templates, and their files
What = Literal["done", "unchanged", "newer", "cannot"]
KIBANA = "Kibana's data view and dashboards"
INCOMPLETE = 3  #: exit status: all was tried, and a server could not take something


class Said(NamedTuple):
    """The outcome for a thing."""

    thing: str
    what: What
    why: str = ""


def setup(config: Monitoring, environ: Mapping[str, str] = os.environ) -> Iterator[Said]:
    """Put everything on the server unless its own is newer. A failing Elasticsearch ends the set-up, Kibana does not.

    Raises:
        TransientError: if Elasticsearch does not answer.
        ConfigError: if no server is configured, or it does not let this user in.
    """
    for thing, put in _things(config, environ):
        try:
            what = put() or "done"
            yield Said(thing, what, "a newer release has put it; it is left alone" if what == "newer" else "")
        except (Cannot, LlmopsError) as error:
            if isinstance(error, LlmopsError) and thing != KIBANA:
                raise
            yield Said(thing, "cannot", str(error))


def read(name: str) -> Any:
    """Return the content of a YAML file of this folder."""
    return yaml.safe_load(_text(f"{name}.yaml"))


def saved_objects() -> list[dict[str, Any]]:
    """Return the data view and the dashboards, in the order in which they refer to each other."""
    return [json.loads(line) for line in _text("kibana.ndjson").splitlines()]


def _things(config: Monitoring, environ: Mapping[str, str]) -> Iterator[tuple[str, Callable[[], What | None]]]:
    """Yield what is set up, in order, with what puts it; users where the environment has their passwords."""
    if not config.elasticsearch_url:
        raise ConfigError("No Elasticsearch is configured; set monitoring.elasticsearch_url.")
    server, fields = Server("Elasticsearch", config.elasticsearch_url, environ, config.ca_file), read(FIELDS)
    document, user_put = partial(_put, server), partial(_put_user, server)
    try:
        server.ask("GET", "/_cluster/health")
    except Cannot as error:
        raise ConfigError(
            f"{config.elasticsearch_url} does not answer as Elasticsearch ({error}); see monitoring.elasticsearch_url."
        ) from None
    yield f"component template {FIELDS}", partial(document, "component_template", FIELDS, fields)
    for name, days in ((EVENTS, config.elasticsearch_days), (TEXTS, config.keep_text_days)):
        body = read(name)
        body["template"]["lifecycle"] = {"data_retention": f"{days}d"}
        yield f"index template {name}", partial(document, "index_template", name, body)
    yield "mapping of existing data streams", partial(_roll_over, server, fields["version"])
    yield "retention of data streams", partial(_retain, server, config)
    for name, role in read("roles").items():
        yield f"role {name}", partial(document, "role", name, role)
    for variable, user in (("ELASTICSEARCH_WRITER_PASSWORD", WRITER), ("ELASTICSEARCH_READER_PASSWORD", READER)):
        if environ.get(variable):
            body = {"password": environ[variable], "roles": [user], "metadata": {"managed_by": "llmops"}}
            yield f"user {user}", partial(user_put, user, body)
    if password := environ.get("KIBANA_SYSTEM_PASSWORD"):
        yield "user kibana_system", partial(user_put, "kibana_system/_password", {"password": password})
    if config.kibana_url:
        yield KIBANA, partial(_import, Server("Kibana", config.kibana_url, environ, config.ca_file))


def _put(server: Server, kind: str, name: str, body: dict[str, Any]) -> What | None:
    """Put a template or a role, unless the server has a newer one."""
    path = f"/_security/role/{name}" if kind == "role" else f"/_{kind}/{name}"
    with suppress(Cannot):  # it is not there
        answer = server.ask("GET", path)
        if _version(answer[name] if kind == "role" else answer[f"{kind}s"][0][kind]) > _version(body):
            return "newer"
    server.ask("PUT", path, body)
    return None


def _put_user(server: Server, path: str, body: dict[str, Any]) -> None:
    server.ask("PUT", f"/_security/user/{path}", body)


def _version(body: Mapping[str, Any]) -> int:
    return int(body.get("version") or body.get("metadata", {}).get("version") or 0)


def _roll_over(server: Server, version: int) -> None:
    """Let data streams whose fields are older begin a new index, which has those of the template."""
    mappings = server.ask("GET", f"/{STREAMS}/_mapping")
    for stream in server.ask("GET", f"/_resolve/index/{STREAMS}")["data_streams"]:
        written = mappings[stream["backing_indices"][-1]]["mappings"]
        if written.get("_meta", {}).get("version", 0) < version:
            server.ask("POST", f"/{stream['name']}/_rollover")


def _retain(server: Server, config: Monitoring) -> None:
    """Set the days that existing data streams keep events; new ones have them from their template."""
    try:
        streams = server.ask("GET", f"/_data_stream/{STREAMS}/_lifecycle")["data_streams"]
    except Cannot as error:
        raise Cannot(f"the server has no lifecycle, so events stay until somebody deletes them ({error})") from None
    for name in (stream["name"] for stream in streams):
        days = config.keep_text_days if name.startswith(TEXT_STREAMS) else config.elasticsearch_days
        server.ask("PUT", f"/_data_stream/{name}/_lifecycle", {"data_retention": f"{days}d"})


def _import(server: Server) -> What | None:
    """Import all objects, which replaces those that users have edited, unless the server has them in these versions.

    A dashboard has its version in its description.
    """
    wanted = saved_objects()
    wish = {"objects": [{"type": one["type"], "id": one["id"]} for one in wanted], "excludeExportDetails": True}
    with suppress(Cannot):  # one is missing
        found = server.ask("POST", "/api/saved_objects/_export", wish, lines=True)
        if _descriptions(found) == _descriptions(wanted):
            return "unchanged"
    file = ("llmops.ndjson", _text("kibana.ndjson"), "application/ndjson")
    answer = server.ask("POST", "/api/saved_objects/_import", params={"overwrite": "true"}, files={"file": file})
    if not answer["success"]:  # the others are taken all the same
        raise Cannot(json.dumps(answer.get("errors", answer))[:300])
    return None


def _descriptions(objects: list[dict[str, Any]]) -> dict[str, str]:
    return {one["id"]: one["attributes"].get("description", "") for one in objects}


def _text(name: str) -> str:
    return files("llmops.elk").joinpath(name).read_text(encoding="utf-8")
