"""Setting up, checking and taking down, and what is said of each thing."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Any, Literal, NamedTuple

from llmops.config import Monitoring
from llmops.elk import elasticsearch, kibana
from llmops.elk.elasticsearch import State, Thing
from llmops.elk.objects import STREAMS
from llmops.elk.server import Cannot, Server
from llmops.errors import ConfigError, LlmopsError

What = Literal["created", "changed", "unchanged", "ok", "missing", "differs", "removed", "kept", "cannot"]
INCOMPLETE = 3  #: exit status: all was tried, and the server could not take or give up something
_DONE: dict[State, What] = {"missing": "created", "differs": "changed", "same": "unchanged"}
_SEEN: dict[State, What] = {"missing": "missing", "differs": "differs", "same": "ok"}


class Said(NamedTuple):
    """What became of a thing."""

    thing: str
    what: What
    why: str = ""


def setup(config: Monitoring, environ: Mapping[str, str] = os.environ, change: bool = True) -> Iterator[Said]:
    """Make everything as it is to be, one thing after another; without `change` only say how each thing is.

    Raises:
        TransientError: if Elasticsearch does not answer.
        ConfigError: if no server is configured, or it does not let this user in.
    """
    with ExitStack() as stack:
        for thing in _things(config, environ, stack):
            try:
                state = thing.look()
                if change and state != "same":
                    thing.put()
                yield Said(thing.name, (_DONE if change else _SEEN)[state])
            except Cannot as error:
                yield Said(thing.name, "cannot", str(error))


def check(config: Monitoring, environ: Mapping[str, str] = os.environ) -> Iterator[Said]:
    """Say whether everything is as it is to be; change nothing. Raises what `setup` raises."""
    return setup(config, environ, change=False)


def down(config: Monitoring, data: bool, environ: Mapping[str, str] = os.environ) -> Iterator[Said]:
    """Remove what `setup` has made; events only with `data`. Raises what `setup` raises."""
    with ExitStack() as stack:
        found = _things(config, environ, stack)
        if data:
            yield _without_data(stack.enter_context(_elasticsearch(config, environ)))
        for thing in reversed(found):
            try:
                if thing.look() == "missing":
                    yield Said(thing.name, "unchanged", "it is not there")
                    continue
                why = thing.remove()
                yield Said(thing.name, "kept" if why else "removed", why)
            except Cannot as error:
                yield Said(thing.name, "cannot", str(error))


def status(said: list[Said]) -> int:
    """The exit status: 0 if all is well, 1 if something is not there, 3 if a server could not take it."""
    whats = {one.what for one in said}
    return 1 if whats & {"missing", "differs"} else INCOMPLETE if "cannot" in whats else 0


def _elasticsearch(config: Monitoring, environ: Mapping[str, str]) -> Server:
    if not config.elasticsearch_url:
        raise ConfigError("No Elasticsearch is configured; set monitoring.elasticsearch_url.")
    return Server("Elasticsearch", config.elasticsearch_url, environ, config.ca_file)


def _things(config: Monitoring, environ: Mapping[str, str], stack: ExitStack) -> list[Thing]:
    """What is set up in the servers that are configured; of a Kibana that does not answer, that."""
    server = stack.enter_context(_elasticsearch(config, environ))
    server.ask("GET", "/_cluster/health")
    found = elasticsearch.things(server, config, environ)
    if config.kibana_url:
        server = stack.enter_context(Server("Kibana", config.kibana_url, environ, config.ca_file))
        try:
            server.do("GET", "/api/status")
            found += kibana.things(server)
        except (LlmopsError, Cannot) as error:
            found.append(_Absent(str(error)))
    return found


class _Absent:
    """A Kibana that does not answer."""

    name = "Kibana's data view and dashboards"

    def __init__(self, why: str) -> None:
        self._why = why

    def look(self) -> Any:
        raise Cannot(self._why)

    put = remove = look


def _without_data(server: Server) -> Said:
    try:
        server.do("DELETE", f"/_data_stream/{STREAMS}")
    except Cannot as error:
        return Said(f"events ({STREAMS})", "cannot", str(error))
    return Said(f"events ({STREAMS})", "removed")
