"""The interface for reading events, from any sink that keeps them."""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Protocol

from llmops.config import Config
from llmops.events.elasticsearch_reader import ElasticsearchReader
from llmops.events.figures.requests import Summary
from llmops.events.sinks.local import LocalStore
from llmops.frame.errors import ConfigError


class Reader(Hashable, Protocol):
    """A source of events.

    `find` and `select` take times as texts of `format_timestamp`, the others as datetimes with a time zone. The default
    `until="~"` sorts after every time, and `limit=-1` is no limit. Events that wait in the spool, not yet delivered to
    their sink, are not included. Every method raises `EventsUnavailable` if the source cannot be read now.
    """

    def find(
        self, dataset: str, since: str = "", until: str = "~", limit: int = -1, newest_first: bool = False
    ) -> Iterator[dict[str, Any]]:
        """Yield the events of a dataset with `since <= @timestamp < until`, in order of time."""

    def select(self, dataset: str, fields: Sequence[str], since: str = "", until: str = "~") -> list[tuple[Any, ...]]:
        """Return some fields of the events of a dataset, in order of time; None where an event lacks the field."""

    def summarize(self, since: datetime, until: datetime, step: timedelta | None = None) -> Summary:
        """Return the figures of the requests with `since <= @timestamp < until`: in total, by version, and by `step`.

        Percentiles are exact, or accurate to 1 % if there are many requests.
        """

    def count_by_path(self, since: datetime, until: datetime) -> dict[str, tuple[int, int]]:
        """Return path → number of its answered and failed requests in this window, and of the failed ones alone."""

    def count_ratings(self, since: datetime, until: datetime) -> dict[str, dict[str, int]]:
        """Return version → rating → count, for requests of this window, rated at any time.

        The last rating of a key counts.
        """


def make_reader(config: Config, environ: Mapping[str, str] = os.environ) -> Reader:
    """Return the reader of events: Elasticsearch if events go there (directly or by Logstash), else the local store.

    Elasticsearch has the events of all processes, the local store only those of one home folder (`config.home`). If
    Elasticsearch cannot be reached, its reader raises: the figures of one home would be misleading. Without
    `monitoring.elasticsearch_url`, only the local store can be read.

    Raises:
        ConfigError: if no configured sink can be read.
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
