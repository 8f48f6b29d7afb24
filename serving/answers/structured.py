"""`response_format`: the JSON schemas that answers can follow.

An engine compiles a schema to a grammar, and other answers wait meanwhile. So only keywords are accepted that engines
enforce and compile soon: OpenVINO ignores `multipleOf`, and takes 12 ms for each character of a `maxLength`. With all
that the bounds below allow, a schema takes 0.3 s on one core.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from serving.answers.schemas import Str

MOST_CHARS = 8000  #: characters of a schema without descriptions
MOST_DEPTH = 16
MOST_PROPERTIES = 100  #: properties and definitions in all
MOST_BOUNDS = 20  #: `minItems` and `maxItems` in all
ANY_OBJECT = '{"type":"object"}'
FORMATS = ("date", "time", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "uri", "uuid")

_NOTES = {"$schema", "$id", "$comment", "title", "description", "default", "examples", "deprecated"}
_RANGES = {"minItems": (0, 100), "maxItems": (0, 100)} | dict.fromkeys(
    ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), (-(10**9), 10**9)
)
#: keyword → the only keywords that engines do not ignore beside it
_ALONE = {"$ref": {"$defs"}, "anyOf": {"$defs"}, "enum": {"$defs", "type"}, "const": {"$defs", "type"}}
_SCHEMAS = {"items", "additionalProperties", "properties", "$defs", "anyOf"}  #: keywords whose values have schemas
_KEYWORDS = {*_RANGES, *_ALONE, *_SCHEMAS, "type", "required", "format"}


def clean_schema(schema: dict[str, Any]) -> str:
    """Return a JSON schema as JSON without descriptions. Values of a wrong type are left for the engine to refuse.

    Raises:
        ValueError: if engines do not enforce it, or it takes too long to compile; with the place and the reason.
    """
    counts = Counter[str]()
    text = json.dumps(_clean(schema, "", 0, counts), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    text.encode()  # raises ValueError for half of a surrogate pair
    for name, count, most in (
        ("characters without descriptions", len(text), MOST_CHARS),
        ("properties", counts["named"], MOST_PROPERTIES),
        ("minItems and maxItems", counts["minItems"] + counts["maxItems"], MOST_BOUNDS),
    ):
        _require(count <= most, f"it has {count} {name}; at most {most} are supported")
    return text


def _clean(schema: Any, place: str, depth: int, counts: Counter[str]) -> Any:
    _require(depth <= MOST_DEPTH, f"{place[:100]}… is nested more than {MOST_DEPTH} deep")
    if not isinstance(schema, dict):
        return schema
    kept = {name: value for name, value in schema.items() if name not in _NOTES}
    counts.update(kept.keys())
    for name, value in kept.items():
        at = f"{place}.{name}".removeprefix(".")
        _check_keyword(name, value, kept, at)
        if name in ("properties", "$defs") and isinstance(value, dict):
            counts["named"] += len(value)
            kept[name] = {key: _clean(below, f"{at}.{key}", depth + 1, counts) for key, below in value.items()}
        elif name == "anyOf" and isinstance(value, list):
            kept[name] = [_clean(below, f"{at}.{n}", depth + 1, counts) for n, below in enumerate(value)]
        elif name in _SCHEMAS:
            kept[name] = _clean(value, at, depth + 1, counts)
    if kept.keys() & {"minItems", "maxItems"}:
        kept.setdefault("items", {})  # OpenVINO refuses or ignores both without it
    return kept


def _check_keyword(name: str, value: Any, beside: dict[str, Any], place: str) -> None:
    _require(name in _KEYWORDS, f"{place} is not supported")
    ignored = beside.keys() - {name} - _ALONE.get(name, beside.keys())
    _require(not ignored, f"{place} is not supported beside {', '.join(sorted(ignored))}")
    if name in _RANGES:
        least, most = _RANGES[name]
        _require(type(value) is int and least <= value <= most, f"{place} must be a whole number, {least} to {most}")
        _require("Items" in name or beside.get("type") == "integer", f"{place} is only supported for the type integer")
    elif name in ("enum", "const"):
        nested = any(isinstance(one, dict | list) for one in (value if isinstance(value, list) else [value]))
        _require(not nested, f"{place} is only supported with texts, numbers, true, false and null")
    elif name == "required" and isinstance(value, list):
        known = list(properties) if isinstance(properties := beside.get("properties"), dict) else []
        _require(len(value) <= len(known) and all(one in known for one in value), f"{place} must name properties")
    elif name == "format":
        _require(value in FORMATS, f"{place} must be one of {', '.join(FORMATS)}")
    elif name == "additionalProperties":
        _require(value is False or not beside.get("properties"), f"{place} must be false beside properties")


def _require(holds: object, message: str) -> None:
    if not holds:
        raise ValueError(message)


class JsonSchema(BaseModel):
    """A schema with its name."""

    model_config = ConfigDict(extra="forbid")

    name: Str = Field("", max_length=64)
    schema_: Annotated[dict[str, Any], AfterValidator(clean_schema)] | None = Field(
        None, alias="schema", description="Default: any object."
    )
    description: Any = Field(None, description="Accepted and ignored.")
    strict: Any = Field(None, description="Accepted; the answer always follows the schema.")


class ResponseFormat(BaseModel):
    """The form of an answer."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None

    @property
    def schema_text(self) -> str:
        """Return the schema that the answer follows, as JSON; empty for text."""
        if self.type == "text":
            return ""
        return str((self.json_schema and self.json_schema.schema_) or ANY_OBJECT)  # a string since its validation

    @model_validator(mode="after")
    def _check_schema(self) -> Self:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("json_schema belongs to the type json_schema")
        return self
