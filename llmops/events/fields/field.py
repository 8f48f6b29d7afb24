"""One entry of the registry of fields."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple

Type = Literal["keyword", "text", "long", "double", "boolean", "date", "ip", "object"]


class Field(NamedTuple):
    """One field of events."""

    name: str
    type: Type
    meaning: str
    datasets: tuple[str, ...]  #: the kinds of events that have it; empty: all
    personal: bool = False  #: it may identify a person, or contain text that a person wrote


def fields_of(*datasets: str, fields: Iterable[tuple[str, Type, str]], personal: bool = False) -> list[Field]:
    """Return the fields of one or several kinds of events, from (name, type, meaning)."""
    return [Field(name, kind, meaning, datasets, personal) for name, kind, meaning in fields]
