"""Reading events back: one interface, whichever sink keeps them."""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Protocol

from llmops.config import Config
from llmops.errors import ConfigError
from llmops.monitoring.elasticsearch_reader import ElasticsearchReader
from llmops.monitoring.figures.requests import Requests
from llmops.monitoring.sinks.local import LocalStore


class Reader(Hashable, Protocol):
    """Where events are read from. Times are texts as `events.timestamp` makes them, or moments with a time zone.

    What still waits in the spool is not seen. Every method raises `EventsUnavailable` if the place cannot be read now.
    """

    def find(
        self, dataset: str, since: str = "", until: str = "~", limit: int = -1, newest_first: bool = False
    ) -> Iterator[dict[str, Any]]:
        """Events of a dataset with `since <= @timestamp < until`, in order of time."""

    def columns(self, dataset: str, fields: Sequence[str], since: str = "", until: str = "~") -> list[tuple[Any, ...]]:
        """Only some fields of the events of a dataset, in order of time; null where an event has none."""

    def requests(self, since: datetime, until: datetime, step: timedelta | None = None) -> Requests:
        """What the requests with `since <= @timestamp < until` did: all together, by version, and with `step` in each
        step of the window. Percentiles are exact, or within 1 % where there are many requests."""

    def ratings(self, since: datetime, until: datetime) -> dict[str, dict[str, int]]:
        """By version, how often each rating was given to requests of this window, whenever they were rated. The last
        word of a key counts."""


def reader_of(config: Config, environ: Mapping[str, str] = os.environ) -> Reader:
    """Return what the configuration's events are read from: Elasticsearch if they go there, perhaps by Logstash, else
    the local store.

    Elasticsearch has the events of all processes, the local store those of one home. If Elasticsearch is away its
    reader says so; nobody gets the figures of one home in their place.

    Raises:
        ConfigError: if they go to no sink that can be read.
    """
    monitoring = config.monitoring
    if monitoring.elasticsearch_url and not {"elasticsearch", "logstash"}.isdisjoint(monitoring.sinks):
        return ElasticsearchReader.connect(monitoring.elasticsearch_url, environ, monitoring.ca_file)
    if "local" in monitoring.sinks:
        return LocalStore(config.events, monitoring)
    raise ConfigError(
        "Events go to no sink that can be read; name `local` or `elasticsearch` in monitoring.sinks, or set "
        "monitoring.elasticsearch_url if Logstash brings them there."
    )
