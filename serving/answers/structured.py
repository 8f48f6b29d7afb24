"""`response_format`: which JSON schemas an answer can be made to follow.

An engine compiles a schema to a grammar, and others wait while it does. So what is taken is what compiles soon and is
then kept to: a schema with all that the bounds below allow takes half a second on one core for 49,152 tokens, one as
clients send it 10 ms. `maxLength`, for one, takes 15 ms for each character, and `multipleOf` is never kept to.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from serving.answers.schemas import Str

MOST_CHARS = 8000  #: of a schema without its descriptions
MOST_ENTRIES = MOST_CHARS // 2  #: of `anyOf`, `enum` and `required`, in all: more have more characters
MOST_DEPTH = 16
MOST_PROPERTIES = 100  #: of all objects together; also of definitions
MOST_BRANCHES = 20  #: objects and arrays that a value may be instead of another, in all: each is tried at every token
MOST_BOUNDS = 20  #: keywords that bound a number or the items of an array, in all
MOST_BOUND = 10**9  #: what these may say of a number, up or down
MOST_ITEMS = 100  #: what these may say of items
MOST_WHOLE = 2**53  #: of a value: whole numbers above are rounded by who reads them

ANY_OBJECT = '{"type":"object"}'

#: what says nothing about which answers there are
_NOTES = frozenset(
    ("$schema", "$id", "$comment", "title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly")
)
_RANGE = frozenset(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"))
_COUNTS = frozenset(("minItems", "maxItems"))
_KEYWORDS: dict[str, frozenset[str]] = {
    "object": frozenset(("properties", "required", "additionalProperties")),
    "array": frozenset(("items", *_COUNTS)),
    "string": frozenset(("format", "minLength")),
    "integer": _RANGE,
    "number": _RANGE,
    "boolean": frozenset(),
    "null": frozenset(),
}
_PLAIN: dict[str, Any] = {
    "string": str,
    "boolean": bool,
    "null": type(None),
    "integer": int,
    "number": (int, float),
}
_FORMATS = ("date", "time", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "uri", "uuid")
_NAME = re.compile(r"[\w.-]+", re.ASCII)
_REFERENCE = re.compile(r"#/(?:\$defs|definitions)/([\w.-]+)", re.ASCII)


class JsonSchema(BaseModel):
    """A schema and what a client calls it."""

    model_config = ConfigDict(extra="forbid")

    name: Str = Field("", max_length=64)
    schema_: dict[str, Any] | None = Field(None, alias="schema", description="Default: any object.")
    description: Any = Field(None, description="Taken; changes nothing.")
    strict: Any = Field(None, description="Taken; a schema is always kept to.")


class ResponseFormat(BaseModel):
    """What form an answer has."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @property
    def followed(self) -> str:
        """The schema that the answer follows, as JSON without what changes nothing; empty: it is text."""
        given = self.json_schema.schema_ if self.json_schema else None
        return "" if self.type == "text" else ANY_OBJECT if given is None else schema_text(given)

    @model_validator(mode="after")
    def _can_be_followed(self) -> Self:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("json_schema belongs to the type json_schema")
        self.followed  # noqa: B018  raises what is wrong with it
        return self


def schema_text(schema: Mapping[str, Any]) -> str:
    """A schema as engines get it.

    Raises:
        ValueError: if it has what engines do not keep to, or compile too slowly; naming where and what.
    """
    text = json.dumps(SchemaReader().whole(schema), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("schema: holds half of a surrogate pair, which is no text") from None
    if len(text) > MOST_CHARS:
        raise ValueError(f"schema: has {len(text)} characters without descriptions; at most {MOST_CHARS} are taken")
    return text


class SchemaReader:
    """Reads one schema, counting what costs time."""

    def __init__(self) -> None:
        self._properties = self._bounds = self._branches = self._entries = 0
        self._asked: dict[str, str] = {}  # definition that is referred to → where

    def whole(self, schema: Mapping[str, Any]) -> dict[str, Any]:
        """The schema without what changes nothing; see `schema_text`."""
        rest, definitions = dict(schema), dict[str, Any]()
        for name in ("$defs", "definitions"):
            given = rest.pop(name, {})
            _must(isinstance(given, dict), f"schema.{name}", "is no object")
            definitions |= given
        _must(len(definitions) <= MOST_PROPERTIES, "schema.$defs", f"has more than {MOST_PROPERTIES} entries")
        named = all(map(_NAME.fullmatch, definitions))
        _must(named, "schema.$defs", "has a name of other than letters, digits, `_`, `-` and `.`")
        read = {name: self._read(one, f"schema.$defs.{name}", 1) for name, one in definitions.items()}
        root = self._read(rest, "schema", 0)
        for name, place in self._asked.items():
            _must(name in read or not name, place, "$ref refers to nothing")
        _refuse_circles({**read, "": root})
        return {**root, "$defs": read} if read else root

    def _read(self, schema: Any, place: str, depth: int) -> dict[str, Any]:
        _must(depth <= MOST_DEPTH, place, f"is nested more than {MOST_DEPTH} deep")
        if schema is True:
            return {}
        _must(isinstance(schema, dict), place, "is no schema that a value can follow")
        kept = {name: value for name, value in schema.items() if name not in _NOTES}
        for alone in ("$ref", "anyOf", "allOf"):
            if alone in kept:
                _must(len(kept) == 1, place, f"{alone} cannot stand beside other keywords")
                return self._joined(alone, kept[alone], place, depth)
        if "enum" in kept or "const" in kept:
            self._count(kept.get("enum"), place)
            return _one_of(kept, place)
        return self._typed(kept, place, depth) if kept else {}

    def _joined(self, keyword: str, value: Any, place: str, depth: int) -> dict[str, Any]:
        if keyword == "$ref":
            found = _REFERENCE.fullmatch(value) if isinstance(value, str) else None
            _must(found or value == "#", place, "$ref must be `#` or `#/$defs/…`")
            name = found[1] if found else ""
            self._asked.setdefault(name, place)
            return {"$ref": f"#/$defs/{name}" if name else "#"}
        _must(isinstance(value, list) and value, place, f"{keyword} must be an array with schemas")
        if keyword == "allOf":
            _must(len(value) == 1, place, "allOf is only supported with one schema")
            return self._read(value[0], place, depth + 1)
        self._count(value, place)
        read = (self._read(one, f"{place}.anyOf.{n}", depth + 1) for n, one in enumerate(value))
        ways = [*{json.dumps(way, sort_keys=True): way for way in read}.values()]
        self._branches += max(0, sum(map(_has_parts, ways)) - 1)
        _must(self._branches <= MOST_BRANCHES, place, f"there are more than {MOST_BRANCHES} branches of anyOf in all")
        return {"anyOf": ways} if len(ways) > 1 else ways[0]

    def _typed(self, kept: dict[str, Any], place: str, depth: int) -> dict[str, Any]:
        kinds = _kinds(kept, place)
        read: dict[str, Any] = {"type": kinds if len(kinds) > 1 else kinds[0]}
        known = frozenset[str]().union(*(_KEYWORDS[kind] for kind in kinds))
        for name, value in kept.items():
            _must(name in known or name == "type", place, f"{_shown(name)} is not supported")
            # a bound of a number is kept to in its whole part alone: 1.7 passes for at most 1
            _must("number" not in kinds or name not in _RANGE, place, f"{name} is only supported for integers")
            match name:
                case "properties":
                    read[name] = self._fields(value, place, depth)
                case "required":
                    self._count(value, place)
                    there = kept["properties"] if isinstance(kept.get("properties"), dict) else {}
                    fits = isinstance(value, list) and all(isinstance(one, str) and one in there for one in value)
                    _must(fits, place, "required must name properties")
                    read[name] = value
                case "additionalProperties" | "items":
                    closed = name == "additionalProperties" and value is False
                    found = value if closed else self._read(value, f"{place}.{name}", depth + 1)
                    # Beside properties, it would let these have other values; without it none but these are said.
                    if closed or name == "items" or not kept.get("properties"):
                        read[name] = found
                case "format":
                    _must(value in _FORMATS, place, f"format is supported with {', '.join(_FORMATS)}")
                    read[name] = value
                case "minLength":
                    _must(_is_whole(value, 0, 1), place, "minLength is only supported up to 1")
                    read[name] = value
                case "minItems" | "maxItems":
                    read[name] = self._bound(name, value, 0, MOST_ITEMS, place)
                case _ if name in _RANGE:
                    read[name] = self._bound(name, value, -MOST_BOUND, MOST_BOUND, place)
        if read.keys() & _COUNTS:
            read.setdefault("items", {})
        return read

    def _count(self, value: Any, place: str) -> None:
        """Refuse what is sure to be too long before its entries are read."""
        self._entries += len(value) if isinstance(value, list) else 0
        why = f"more than {MOST_ENTRIES} entries of anyOf, enum and required have more than {MOST_CHARS} characters"
        _must(self._entries <= MOST_ENTRIES, place, why)

    def _fields(self, value: Any, place: str, depth: int) -> dict[str, Any]:
        _must(isinstance(value, dict), place, "properties is no object")
        self._properties += len(value)
        _must(self._properties <= MOST_PROPERTIES, place, f"there are more than {MOST_PROPERTIES} properties in all")
        for name in value:
            plain = name.isprintable() and '"' not in name and "\\" not in name
            _must(plain, place, "a property's name cannot have quotes, backslashes or control characters")
        return {name: self._read(one, f"{place}.{_shown(name)}", depth + 1) for name, one in value.items()}

    def _bound(self, name: str, value: Any, least: int, most: int, place: str) -> int:
        _must(_is_whole(value, least, most), place, f"{name} must be a whole number from {least} to {most}")
        self._bounds += 1
        _must(self._bounds <= MOST_BOUNDS, place, f"there are more than {MOST_BOUNDS} bounds of numbers and items")
        return int(value)


def _kinds(kept: Mapping[str, Any], place: str) -> list[str]:
    """The types that a value may have; without a `type` that of the keywords."""
    given = kept.get("type", next((kind for kind in ("object", "array") if _KEYWORDS[kind] & kept.keys()), None))
    kinds = given if isinstance(given, list) else [given]
    _must(given is not None, place, f"{_shown(next(iter(kept)))} is not supported without a type")
    known = all(isinstance(kind, str) and kind in _KEYWORDS for kind in kinds) and 0 < len(set(kinds)) == len(kinds)
    _must(known, place, f"type must be of {', '.join(_KEYWORDS)}")
    return kinds


def _one_of(kept: Mapping[str, Any], place: str) -> dict[str, Any]:
    """A schema with the values that there are."""
    keyword = "enum" if "enum" in kept else "const"
    _must(kept.keys() <= {keyword, "type"}, place, f"{keyword} cannot stand beside other keywords than type")
    values = kept["enum"] if keyword == "enum" else [kept["const"]]
    plain = (
        isinstance(values, list) and values and all(one is None or isinstance(one, str | int | float) for one in values)
    )
    _must(plain, place, f"{keyword} is supported with texts, numbers, true, false and null")
    whole = all(abs(one) <= MOST_WHOLE for one in values if isinstance(one, int))
    _must(whole, place, f"{keyword} has a whole number beyond 2 to the 53rd")
    if "type" in kept:
        kinds = _kinds(kept, place)
        _must(all(any(_is_a(one, kind) for kind in kinds) for one in values), place, f"{keyword} and type contradict")
    return {"enum": values}


def _refuse_circles(definitions: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse a definition that is only itself, by however many steps: no value is told apart by it."""
    done: set[str] = set()
    for start in definitions:
        path = [(start, _turns(definitions[start]))]
        while path:
            name, turns = path[-1]
            if not turns or name in done:
                done.add(path.pop()[0])
                continue
            turn = turns.pop()
            _must(
                turn not in {one for one, _ in path}, f"schema.$defs.{turn}".removesuffix(".$defs."), "is only itself"
            )
            path.append((turn, _turns(definitions[turn])))


def _turns(schema: Mapping[str, Any]) -> list[str]:
    """The definitions that a value may follow instead, without any step into it."""
    if "$ref" in schema:
        return [schema["$ref"].removeprefix("#").removeprefix("/$defs/")]
    return [name for one in schema.get("anyOf", ()) for name in _turns(one)]


def _is_a(value: Any, kind: str) -> bool:
    return isinstance(value, _PLAIN.get(kind, ())) and isinstance(value, bool) == (kind == "boolean")


def _has_parts(schema: Mapping[str, Any]) -> bool:
    """Whether a value of this schema may be an object or an array."""
    kinds = schema.get("type", [])
    parts = {"object", "array"} & {*([kinds] if isinstance(kinds, str) else kinds)}
    return "enum" not in schema and (not kinds or bool(parts))


def _is_whole(value: Any, least: int, most: int) -> bool:
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and least <= value <= most
        and value == int(value)
    )


def _shown(name: str) -> str:
    return name if len(name) <= 40 else f"{name[:40]}…"


def _must(holds: object, place: str, why: str) -> None:
    if not holds:
        raise ValueError(f"{place}: {why}")
