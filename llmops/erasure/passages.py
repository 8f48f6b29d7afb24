"""The passages that are searched on a server: made anew of what an erasure has left, and searched for the person."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict

from llmops.config import Config, SearchServer
from llmops.data.index import filling
from llmops.data.index.filling import ID, Copies
from llmops.erasure.search import naming_cells
from llmops.erasure.subject import Subject
from llmops.records import Passage, is_key
from llmops.registry.registry import Registry
from llmops.state.database import database_of


def clear(config: Config) -> None:
    """Remove from the server all that is not served: older indexes may name a person whom no other file names.

    Raises:
        IndexUnavailable, IndexRefused: if the server does not do it.
    """
    for server, registry in _served_by(config):
        filling.clear(server, registry)


def renew(config: Config) -> None:
    """Put the served indexes there as they are now, and remove what was there before.

    Raises:
        IndexUnavailable, IndexRefused: if the server does not do it.
    """
    for server, registry in _served_by(config):
        filling.renew(server, registry)


def where_named(config: Config, subject: Subject) -> dict[str, str]:
    """The indexes on the server that still name the person, and where in them.

    Raises:
        IndexUnavailable, IndexRefused: if they cannot be read.
    """
    still = dict[str, str]()
    for server, registry in _served_by(config):
        with Copies(server, registry) as copies:
            for name in copies.sizes():
                if where := _where_named(copies.passages(name), subject):
                    still[f"{name} in Elasticsearch"] = where
    return still


def unreached(config: Config) -> list[str]:
    """What a server may hold that is not searched any more."""
    if config.search_server or not any(_registries(config)):
        return []
    return ["passages in llmops-passages-* of Elasticsearch, where index.backend had them before: delete these indexes"]


def _served_by(config: Config) -> Iterator[tuple[SearchServer, Registry]]:
    """The server that is searched, with each registry that has put something there; none where files are searched."""
    if config.search_server:
        for registry in _registries(config):
            yield config.search_server, registry


def _registries(config: Config) -> Iterator[Registry]:
    """Those that have put something on a server."""
    for file in sorted(config.registry.glob(f"*/indexes/{ID}")):
        yield Registry(config.registry, file.parts[-3], database_of(config))


def _where_named(passages: Iterable[Passage], subject: Subject) -> str:
    locations = set[str]()

    def cells() -> Iterator[tuple[str, str, int, str]]:
        for row, passage in enumerate(passages):
            locations.add(passage.location)
            for column, text in asdict(passage).items():
                if column != "position" or is_key(text):  # any other is a number that is nobody's
                    yield "", column, row, text

    for _, column, row, _ in naming_cells(cells(), subject):
        return f"in the field {column}, passage {row}"
    return "in the field location" if any(map(subject.named_in_location, locations)) else ""
