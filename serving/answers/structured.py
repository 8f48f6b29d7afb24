"""`response_format`: the JSON schemas that answers can follow.

An engine compiles a schema to a grammar, and other answers wait meanwhile. So only keywords are accepted that engines
enforce and compile soon: OpenVINO ignores `multipleOf`, and takes 12 ms for each character of a `maxLength`. With all
that the bounds below allow, a schema takes 0.3 s on one core.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence, Set
from graphlib import CycleError, TopologicalSorter
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

MAX_CHARS = 8000  #: characters of a schema without descriptions
MAX_DEPTH = 16
MAX_PROPERTIES = 100  #: properties and definitions in all
MAX_SCHEMAS = 1000  #: schemas in a schema, which bounds the time of their check, too
MAX_BOUNDS = 20  #: `minItems` and `maxItems` in all
ANY_OBJECT = '{"type":"object"}'
FORMATS = ("date", "time", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "uri", "uuid")

_ANNOTATIONS = {"$schema", "$id", "$comment", "title", "description", "default", "examples", "deprecated"}
_RANGES = {"minItems": (0, 100), "maxItems": (0, 100)} | dict.fromkeys(
    ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), (-(10**9), 10**9)
)
#: keyword → the only keywords that engines do not ignore beside it
_ALLOWED_SIBLINGS = {"$ref": {"$defs"}, "anyOf": {"$defs"}, "enum": {"$defs", "type"}, "const": {"$defs", "type"}}
#: types of a value of `enum` or `const`
_TYPES = {str: {"string"}, bool: {"boolean"}, int: {"integer", "number"}, float: {"number"}, type(None): {"null"}}
_SCHEMAS = {"items", "additionalProperties", "properties", "$defs", "anyOf"}  #: keywords whose values have schemas
_KEYWORDS = {*_RANGES, *_ALLOWED_SIBLINGS, *_SCHEMAS, "type", "required", "format"}


def clean_schema(schema: dict[str, Any]) -> str:
    """Return a JSON schema as JSON without descriptions. Values of a wrong type are left for the engine to refuse.

    Raises:
        ValueError: if engines do not enforce it, or it takes too long to compile; with the place and the reason.
    """
    definitions = _get_definitions(schema)
    cleaned = _clean_node(schema, "", 0, Counter(), {f"#/$defs/{name}" for name in definitions})
    try:
        TopologicalSorter({f"#/$defs/{name}": _list_direct_refs(one) for name, one in definitions.items()}).prepare()
    except CycleError as error:
        raise ValueError(f"{error.args[1][0]} contains itself outside of objects and arrays") from None
    text = json.dumps(cleaned, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    text.encode()  # raises ValueError for half of a surrogate pair
    _check_limit("characters without descriptions", len(text), MAX_CHARS)
    return text


def check_together(schemas: Sequence[dict[str, Any]]) -> None:
    """Check that several schemas have no more of anything than a single one may have.

    Raises:
        ValueError: if they have, or `clean_schema` refuses one of them.
    """
    counts: Counter[str] = Counter()
    for schema in schemas:
        _clean_node(schema, "", 0, counts, {f"#/$defs/{name}" for name in _get_definitions(schema)})
    _check_limit("characters without descriptions", sum(len(clean_schema(schema)) for schema in schemas), MAX_CHARS)


def _get_definitions(schema: dict[str, Any]) -> dict[str, Any]:
    definitions = schema.get("$defs")
    return definitions if isinstance(definitions, dict) else {}


def _clean_node(schema: Any, path: str, depth: int, counts: Counter[str], refs: Set[str]) -> Any:
    _require(depth <= MAX_DEPTH, f"{path[:100]}… is nested more than {MAX_DEPTH} deep")
    counts["schemas"] += 1
    _check_limit("schemas", counts["schemas"], MAX_SCHEMAS)
    if not isinstance(schema, dict):
        return schema
    kept = {name: value for name, value in schema.items() if name not in _ANNOTATIONS}
    counts["bounds"] += len(kept.keys() & {"minItems", "maxItems"})
    _check_limit("minItems and maxItems", counts["bounds"], MAX_BOUNDS)
    for name, value in kept.items():
        child_path = f"{path}.{name}".removeprefix(".")
        _check_keyword(name, value, kept, child_path, refs)
        if name in ("properties", "$defs") and isinstance(value, dict):
            counts["named"] += len(value)
            _check_limit("properties", counts["named"], MAX_PROPERTIES)
            kept[name] = {
                key: _clean_node(child, f"{child_path}.{key}", depth + 1, counts, refs) for key, child in value.items()
            }
        elif name == "anyOf" and isinstance(value, list):
            kept[name] = [
                _clean_node(child, f"{child_path}.{n}", depth + 1, counts, refs) for n, child in enumerate(value)
            ]
        elif name in _SCHEMAS:
            kept[name] = _clean_node(value, child_path, depth + 1, counts, refs)
    if kept.keys() & {"minItems", "maxItems"}:
        kept.setdefault("items", {})  # OpenVINO refuses or ignores both without it
    return kept


def _check_keyword(name: str, value: Any, siblings: dict[str, Any], path: str, refs: Set[str]) -> None:
    _require(name in _KEYWORDS, f"{path} is not supported")
    ignored = siblings.keys() - {name} - _ALLOWED_SIBLINGS.get(name, siblings.keys())
    _require(not ignored, f"{path} is not supported beside {', '.join(sorted(ignored))}")
    if name in _RANGES:
        low, high = _RANGES[name]
        _require(type(value) is int and low <= value <= high, f"{path} must be a whole number, {low} to {high}")
        _require("Items" in name or siblings.get("type") == "integer", f"{path} is only supported for the type integer")
    elif name in ("enum", "const"):
        values = value if name == "enum" and isinstance(value, list) else [value]
        kinds = {type(one) for one in values}
        _require(kinds <= _TYPES.keys(), f"{path} is only supported with texts, numbers, true, false and null")
        large = any(type(one) is int and abs(one) >= 2**63 for one in values)
        _require(not large, f"{path} is only supported with whole numbers of 64 bits")
        types = siblings.get("type", [])  # engines ignore it here
        types = types if isinstance(types, list) else [types]
        fit = all(any(one in types for one in _TYPES[kind]) for kind in kinds)
        _require("type" not in siblings or fit, f"{path} must have values of the type beside it")
    elif name == "required" and isinstance(value, list):
        known = properties if isinstance(properties := siblings.get("properties"), dict) else {}
        names = all(isinstance(one, str) and one in known for one in value)
        _require(names and len(value) <= len(known), f"{path} must name properties")
    elif name == "format":
        _require(value in FORMATS, f"{path} must be one of {', '.join(FORMATS)}")
        _require(siblings.get("type") == "string", f"{path} is only supported for the type string")
    elif name == "$ref":
        _require(isinstance(value, str) and value in refs, f"{path} must be #/$defs/… of the whole schema")
    elif name in ("type", "anyOf"):
        _require(value != [], f"{path} must not be empty")
    elif name == "additionalProperties":
        _require(value is False or not siblings.get("properties"), f"{path} must be false beside properties")


def _list_direct_refs(schema: Any) -> list[str]:
    """Return the references of a cleaned schema that are not inside of an object or array."""
    if not isinstance(schema, dict):
        return []
    alternatives = schema.get("anyOf")
    branches = alternatives if isinstance(alternatives, list) else []
    return [
        *([schema["$ref"]] if "$ref" in schema else []),
        *(ref for one in branches for ref in _list_direct_refs(one)),
    ]


def _check_limit(name: str, count: int, maximum: int) -> None:
    _require(count <= maximum, f"it has {count} {name}; at most {maximum} are supported")


def _require(holds: object, message: str) -> None:
    if not holds:
        raise ValueError(message)


class JsonSchema(BaseModel):
    """A schema. Its `name`, `description` and `strict` are ignored: an answer always follows it."""

    schema_: Annotated[dict[str, Any], AfterValidator(clean_schema)] = Field(alias="schema")


class ResponseFormat(BaseModel):
    """The form of an answer."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @property
    def schema_text(self) -> str:
        """Return the schema that the answer follows, as JSON; empty for text."""
        if self.json_schema:
            return str(self.json_schema.schema_)  # a string since its validation
        return "" if self.type == "text" else ANY_OBJECT

    @model_validator(mode="after")
    def _check_schema(self) -> Self:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("json_schema belongs to the type json_schema")
        return self
