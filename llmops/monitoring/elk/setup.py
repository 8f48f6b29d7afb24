"""Set up Elasticsearch and Kibana, with one result for each step.

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
from llmops.frame.errors import ConfigError, LlmopsError
from llmops.monitoring.elk.server import RefusedError, Server

STREAMS, TEXT_STREAMS = "logs-llmops.*-*", "logs-llmops.text-"  #: all our data streams; prefix of those with texts
WRITER_USER, READER_USER = "llmops_writer", "llmops_reader"  #: users for events
PASSAGES_USER, SEARCH_USER = "llmops_passages", "llmops_search"  #: users that load and search passages
#: templates, and names of their files
FIELDS_TEMPLATE, EVENTS_TEMPLATE, TEXTS_TEMPLATE = "llmops-fields", "llmops-events", "llmops-texts"
Outcome = Literal["done", "unchanged", "newer", "cannot"]
KIBANA_STEP = "Kibana's data view and dashboards"
EXIT_INCOMPLETE = 3  #: exit status: some steps have failed


class StepResult(NamedTuple):
    """The result of one step."""

    step: str
    outcome: Outcome
    reason: str = ""


def run_setup(config: Monitoring, environ: Mapping[str, str] = os.environ) -> Iterator[StepResult]:
    """Run all steps and yield each result. A failing Elasticsearch ends the set-up; a failing Kibana does not.

    Raises:
        TransientError: if Elasticsearch does not answer.
        ConfigError: if no server is configured, or it does not let this user in.
    """
    for step, run in _list_steps(config, environ):
        try:
            outcome = run() or "done"
            yield StepResult(step, outcome, "a newer release has set it up" if outcome == "newer" else "")
        except (RefusedError, LlmopsError) as error:
            if isinstance(error, LlmopsError) and step != KIBANA_STEP:
                raise
            yield StepResult(step, "cannot", str(error))


def read_yaml(name: str) -> Any:
    """Return the content of a YAML file of this folder."""
    return yaml.safe_load(_read_text(f"{name}.yaml"))


def read_saved_objects() -> list[dict[str, Any]]:
    """Return the data view and the dashboards, in the order in which they refer to each other."""
    return [json.loads(line) for line in _read_text("kibana.ndjson").splitlines()]


def _list_steps(config: Monitoring, environ: Mapping[str, str]) -> Iterator[tuple[str, Callable[[], Outcome | None]]]:
    """Yield name and function of each step, in order. Users are set up if the environment has their passwords."""
    if not config.elasticsearch_url:
        raise ConfigError("No Elasticsearch is configured; set monitoring.elasticsearch_url.")
    server = Server("Elasticsearch", config.elasticsearch_url, environ, config.ca_file)
    fields = read_yaml(FIELDS_TEMPLATE)
    put_document, put_user = partial(_put_document, server), partial(_put_user, server)
    try:
        server.request("GET", "/_cluster/health")
    except RefusedError as error:
        raise ConfigError(
            f"{config.elasticsearch_url} does not answer as Elasticsearch ({error}); see monitoring.elasticsearch_url."
        ) from None
    yield f"component template {FIELDS_TEMPLATE}", partial(put_document, "component_template", FIELDS_TEMPLATE, fields)
    for name, days in ((EVENTS_TEMPLATE, config.elasticsearch_days), (TEXTS_TEMPLATE, config.keep_text_days)):
        body = read_yaml(name)
        body["template"]["lifecycle"] = {"data_retention": f"{days}d"}
        yield f"index template {name}", partial(put_document, "index_template", name, body)
    yield "mapping of existing data streams", partial(_roll_over, server, fields["version"])
    yield "retention of data streams", partial(_set_retention, server, config)
    for name, role in read_yaml("roles").items():
        yield f"role {name}", partial(put_document, "role", name, role)
    for user in (WRITER_USER, READER_USER, PASSAGES_USER, SEARCH_USER):
        if password := environ.get(f"ELASTICSEARCH_{user.removeprefix('llmops_').upper()}_PASSWORD"):
            body = {"password": password, "roles": [user], "metadata": {"managed_by": "llmops"}}
            yield f"user {user}", partial(put_user, user, body)
    if password := environ.get("KIBANA_SYSTEM_PASSWORD"):
        yield "user kibana_system", partial(put_user, "kibana_system/_password", {"password": password})
    if config.kibana_url:
        yield KIBANA_STEP, partial(_import_objects, Server("Kibana", config.kibana_url, environ, config.ca_file))


def _put_document(server: Server, kind: str, name: str, body: dict[str, Any]) -> Outcome | None:
    """Put a template or a role, unless the server has a newer one."""
    path = f"/_security/role/{name}" if kind == "role" else f"/_{kind}/{name}"
    with suppress(RefusedError):  # it is not there
        answer = server.request("GET", path)
        if _read_version(answer[name] if kind == "role" else answer[f"{kind}s"][0][kind]) > _read_version(body):
            return "newer"
    server.request("PUT", path, body)
    return None


def _put_user(server: Server, path: str, body: dict[str, Any]) -> None:
    server.request("PUT", f"/_security/user/{path}", body)


def _read_version(body: Mapping[str, Any]) -> int:
    return int(body.get("version") or body.get("metadata", {}).get("version") or 0)


def _roll_over(server: Server, version: int) -> None:
    """Roll over data streams with older mappings. Their new index has the template's mappings."""
    mappings = server.request("GET", f"/{STREAMS}/_mapping")
    for stream in server.request("GET", f"/_resolve/index/{STREAMS}")["data_streams"]:
        mapping = mappings[stream["backing_indices"][-1]]["mappings"]
        if mapping.get("_meta", {}).get("version", 0) < version:
            server.request("POST", f"/{stream['name']}/_rollover")


def _set_retention(server: Server, config: Monitoring) -> None:
    """Set the retention of existing data streams. New ones get it from their template."""
    try:
        streams = server.request("GET", f"/_data_stream/{STREAMS}/_lifecycle")["data_streams"]
    except RefusedError as error:
        raise RefusedError(f"the server has no lifecycle, and events stay until deleted ({error})") from None
    for name in (stream["name"] for stream in streams):
        days = config.keep_text_days if name.startswith(TEXT_STREAMS) else config.elasticsearch_days
        server.request("PUT", f"/_data_stream/{name}/_lifecycle", {"data_retention": f"{days}d"})


def _import_objects(server: Server) -> Outcome | None:
    """Import all objects unless the server has these versions. The import replaces objects that users have edited.

    A dashboard has its version in its description.
    """
    objects = read_saved_objects()
    query = {"objects": [{"type": saved["type"], "id": saved["id"]} for saved in objects], "excludeExportDetails": True}
    with suppress(RefusedError):  # one is missing
        present = server.request("POST", "/api/saved_objects/_export", query, lines=True)
        if _get_descriptions(present) == _get_descriptions(objects):
            return "unchanged"
    file = ("llmops.ndjson", _read_text("kibana.ndjson"), "application/ndjson")
    answer = server.request("POST", "/api/saved_objects/_import", params={"overwrite": "true"}, files={"file": file})
    if not answer["success"]:  # the other objects are imported
        raise RefusedError(json.dumps(answer.get("errors", answer))[:300])
    return None


def _get_descriptions(objects: list[dict[str, Any]]) -> dict[str, str]:
    return {saved_object["id"]: saved_object["attributes"].get("description", "") for saved_object in objects}


def _read_text(name: str) -> str:
    return files("llmops.monitoring.elk").joinpath(name).read_text(encoding="utf-8")
