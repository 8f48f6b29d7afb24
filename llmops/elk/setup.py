"""Setting up, checking and taking down, with a line about each thing."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple

from llmops.config import Monitoring
from llmops.elk.elasticsearch import STREAMS, Events, State, Thing, things
from llmops.elk.kibana import SavedObjects
from llmops.elk.server import Cannot, Server
from llmops.errors import ConfigError, LlmopsError

What = Literal["created", "changed", "unchanged", "newer", "ok", "missing", "differs", "removed", "kept", "cannot"]
INCOMPLETE = 3  #: exit status: all was tried, and the server could not take or give up something
_DONE: dict[State, What] = {"missing": "created", "differs": "changed", "same": "unchanged", "newer": "newer"}
_SEEN: dict[State, What] = {"missing": "missing", "differs": "differs", "same": "ok", "newer": "newer"}


class Said(NamedTuple):
    """The outcome for a thing."""

    thing: str
    what: What
    why: str = ""


def setup(config: Monitoring, environ: Mapping[str, str] = os.environ, change: bool = True) -> Iterator[Said]:
    """Put everything that the server lacks or has in an older version; without `change` only report.

    Raises:
        TransientError: if Elasticsearch does not answer.
        ConfigError: if no server is configured, or it does not let this user in.
    """
    for thing in _things(config, environ):
        try:
            state = thing.look()
            if change and state in ("missing", "differs"):
                thing.put()
            why = "a newer release has put it; it is left alone" if state == "newer" else ""
            yield Said(thing.name, (_DONE if change else _SEEN)[state], why)
        except (Cannot, LlmopsError) as error:
            yield _refused(thing, error)


def check(config: Monitoring, environ: Mapping[str, str] = os.environ) -> Iterator[Said]:
    """Report on everything; change nothing. Raises what `setup` raises."""
    return setup(config, environ, change=False)


def down(config: Monitoring, data: bool, environ: Mapping[str, str] = os.environ) -> Iterator[Said]:
    """Remove all that `setup` puts; events only with `data`. Raises what `setup` raises."""
    found = _things(config, environ)
    if data:
        found.append(Events(found[0].server, f"events ({STREAMS})"))
    for thing in reversed(found):
        try:
            if thing.look() == "missing":
                yield Said(thing.name, "unchanged", "it is not there")
                continue
            why = thing.remove()
            yield Said(thing.name, "kept" if why else "removed", why)
        except (Cannot, LlmopsError) as error:
            yield _refused(thing, error)


def status(said: list[Said]) -> int:
    """Return the exit status: 0 if all is well, 1 if something is not there, 3 if a server could not take it."""
    whats = {one.what for one in said}
    return 1 if whats & {"missing", "differs"} else INCOMPLETE if "cannot" in whats else 0


def _things(config: Monitoring, environ: Mapping[str, str]) -> list[Thing]:
    if not config.elasticsearch_url:
        raise ConfigError("No Elasticsearch is configured; set monitoring.elasticsearch_url.")
    server = Server("Elasticsearch", config.elasticsearch_url, environ, config.ca_file)
    try:
        server.ask("GET", "/_cluster/health")
    except Cannot as error:
        raise ConfigError(
            f"{config.elasticsearch_url} does not answer as Elasticsearch ({error}); see monitoring.elasticsearch_url."
        ) from None
    found = things(server, config, environ)
    if config.kibana_url:
        found.append(SavedObjects(Server("Kibana", config.kibana_url, environ, config.ca_file)))
    return found


def _refused(thing: Thing, error: Exception) -> Said:
    """Report a refusal. An Elasticsearch that fails midway ends the set-up, a Kibana does not."""
    if isinstance(error, LlmopsError) and not isinstance(thing, SavedObjects):
        raise error
    return Said(thing.name, "cannot", str(error))
