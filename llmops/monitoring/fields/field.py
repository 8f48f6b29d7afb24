"""What the registry says of a field."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple

Type = Literal["keyword", "text", "long", "double", "boolean", "date", "ip", "object"]


class Field(NamedTuple):
    """One field."""

    name: str
    type: Type
    meaning: str
    datasets: tuple[str, ...]  #: where it is filled; empty: in every event
    personal: bool = False  #: whether it may tell who somebody is, or what somebody wrote


def fields_of(*datasets: str, fields: Iterable[tuple[str, Type, str]], personal: bool = False) -> list[Field]:
    """Fields of one or several kinds of events, given as (name, type, meaning)."""
    return [Field(name, kind, meaning, datasets, personal) for name, kind, meaning in fields]
