"""Reading events back: one interface, whichever sink keeps them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from llmops.config import Config
from llmops.errors import ConfigError
from llmops.monitoring.sinks.local import LocalStore


class Reader(Protocol):
    """Where events are read from. Times are texts as `events.timestamp` makes them."""

    def find(
        self, dataset: str, since: str = "", until: str = "~", limit: int = -1, newest_first: bool = False
    ) -> Iterator[dict[str, Any]]:
        """Events of a dataset with `since <= @timestamp < until`, in order of time."""

    def columns(self, dataset: str, fields: Sequence[str], since: str = "", until: str = "~") -> list[tuple[Any, ...]]:
        """Only some fields of the events of a dataset, in order of time; null where an event has none."""


def reader_of(config: Config) -> Reader:
    """What the configuration's events are read from.

    Raises:
        ConfigError: if they go to no sink that can be read.
    """
    if "local" not in config.monitoring.sinks:
        raise ConfigError("Events are read from the local event store; name `local` in monitoring.sinks.")
    return LocalStore(config.events)
