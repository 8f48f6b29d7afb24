"""One entry of the registry of fields."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple

FieldType = Literal["keyword", "text", "long", "double", "boolean", "date", "ip", "object"]


class Field(NamedTuple):
    """One field of events."""

    name: str
    type: FieldType
    meaning: str
    datasets: tuple[str, ...]  #: the kinds of events that have it; empty: all
    personal: bool = False  #: it may identify a person, or contain text that a person wrote


def make_fields(*datasets: str, fields: Iterable[tuple[str, FieldType, str]], personal: bool = False) -> list[Field]:
    """Return the fields of one or several kinds of events, from (name, type, meaning)."""
    return [Field(name, kind, meaning, datasets, personal) for name, kind, meaning in fields]
