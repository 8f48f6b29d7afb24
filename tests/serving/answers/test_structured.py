"""Which schemas are taken, what is left of them, and that none is larger, deeper or slower than the bounds say."""

from __future__ import annotations

import json
from typing import Any

import pydantic
import pytest

from serving.answers.structured import (
    MOST_BOUNDS,
    MOST_CHARS,
    MOST_DEPTH,
    MOST_ENTRIES,
    MOST_PROPERTIES,
    ResponseFormat,
    SchemaReader,
    schema_text,
)


class Place(pydantic.BaseModel):
    """Where something is."""

    street: str = pydantic.Field(min_length=1, description="With its number.")
    floor: int | None = None


class Order(pydantic.BaseModel):
    """An order."""

    number: int = pydantic.Field(ge=1, le=99)
    kind: Any = "x"
    places: list[Place] = pydantic.Field(max_length=3)
    parent: Order | None = None


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


def fields(n: int, schema: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {f"a{i}": schema for i in range(n)}}


def test_what_pydantic_makes_is_taken_without_what_it_says_to_people() -> None:
    read = json.loads(schema_text(Order.model_json_schema()))
    assert list(read["$defs"]["Order"]["properties"]) == ["number", "kind", "places", "parent"]
    assert read["$defs"]["Order"]["properties"]["number"] == {"type": "integer", "minimum": 1, "maximum": 99}
    assert read["$defs"]["Place"]["properties"]["floor"] == {"anyOf": [{"type": "integer"}, {"type": "null"}]}
    assert "With its number" not in json.dumps(read) and "title" not in json.dumps(read)


@pytest.mark.parametrize(
    ("schema", "left"),
    [
        ({}, {}),
        ({"title": "x", "description": "y" * 10**5}, {}),
        ({"properties": {"a": True}}, {"type": "object", "properties": {"a": {}}}),
        ({"allOf": [{"type": "string"}], "default": "x"}, {"type": "string"}),
        ({"const": None}, {"enum": [None]}),
        ({"type": ["string", "null"], "enum": ["a", None]}, {"enum": ["a", None]}),
        ({"definitions": {"a": {"type": "null"}}, "$ref": "#/definitions/a"},
         {"$ref": "#/$defs/a", "$defs": {"a": {"type": "null"}}}),
        ({"type": "array", "items": {"$ref": "#"}}, {"type": "array", "items": {"$ref": "#"}}),
        ({"type": "object", "additionalProperties": False}, {"type": "object", "additionalProperties": False}),
        ({"type": "array", "minItems": 1}, {"type": "array", "minItems": 1, "items": {}}),
        ({"anyOf": [{"type": "null"}, {"type": "null", "title": "x"}]}, {"type": "null"}),
        ({"properties": {"a": {"type": "null"}}, "additionalProperties": {"type": "string"}},
         {"type": "object", "properties": {"a": {"type": "null"}}}),
    ],
)  # fmt: skip
def test_what_is_left_of_a_schema_allows_the_same_or_less(schema: dict[str, Any], left: dict[str, Any]) -> None:
    assert json.loads(schema_text(schema)) == left


@pytest.mark.parametrize(
    ("schema", "named"),
    [
        ({"type": "banana"}, "type"),
        ({"type": []}, "type"),
        ({"type": {}}, "type"),
        ({"type": "string", "pattern": "a"}, "pattern"),
        ({"type": "string", "maxLength": 5}, "maxLength"),
        ({"type": "string", "minLength": 2}, "minLength"),
        ({"type": "string", "minLength": True}, "minLength"),
        ({"type": "string", "format": "regex"}, "format"),
        ({"type": "string", "format": []}, "format"),
        ({"type": "integer", "multipleOf": 3}, "multipleOf"),
        ({"type": "number", "minimum": 0.5}, "minimum"),
        ({"type": "number", "exclusiveMinimum": 0}, "exclusiveMinimum"),
        ({"type": ["integer", "number"], "exclusiveMaximum": 0}, "exclusiveMaximum"),
        ({"type": "number", "minimum": float("nan")}, "minimum"),
        ({"type": "number", "maximum": float("inf")}, "maximum"),
        ({"type": "number", "maximum": 10**400}, "maximum"),
        ({"type": "array", "maxItems": 101}, "maxItems"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"type": "array", "items": [{}]}, "items"),
        ({"type": "array", "items": False}, "items"),
        ({"type": "object", "required": ["a"]}, "required"),
        ({"type": "object", "required": "a", "properties": {"a": {}}}, "required"),
        ({"type": "object", "required": [[]], "properties": {"a": {}}}, "required"),
        ({"type": "object", "properties": []}, "properties"),
        ({"type": "object", "properties": None, "required": ["a"]}, "properties|required"),
        ({"type": "object", "patternProperties": {}}, "patternProperties"),
        ({"type": "object", "properties": {'a" | "b': {}}}, "quotes"),
        ({"type": "object", "properties": {"a\n": {}}}, "control"),
        ({"type": "object", "properties": {"a": 1}}, r"schema\.a: is no schema"),
        ({"not": {}}, "not"),
        ({"minimum": 3}, "minimum"),
        ({"oneOf": [{}]}, "oneOf"),
        ({"allOf": [{}, {}]}, "allOf"),
        ({"anyOf": []}, "anyOf"),
        ({"anyOf": [{}], "type": "string"}, "anyOf"),
        ({"enum": []}, "enum"),
        ({"enum": "abc"}, "enum"),
        ({"enum": [{"a": 1}]}, "enum"),
        ({"enum": [1], "type": "string"}, "enum"),
        ({"const": True, "type": "integer"}, "const"),
        ({"const": 10**400}, "whole number"),
        ({"enum": [2**53 + 1]}, "whole number"),
        ({"type": "number", "maximum": 1}, "integers"),
        ({"anyOf": [{"type": "array", "items": {"enum": [n]}} for n in range(22)]}, "branches"),
        ({"const": float("nan")}, "JSON"),
        ({"const": "\ud800"}, "surrogate"),
        ({"$ref": "#/$defs/b", "$defs": {"a": {}}}, "nothing"),
        ({"$ref": "https://example.com/schema"}, r"\$ref"),
        ({"$ref": 1}, r"\$ref"),
        ({"$ref": "#"}, "itself"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/a"}]}}}, "itself"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}, "itself"),
        ({"$defs": {"a b": {}}}, "name"),
        ({"$defs": []}, r"\$defs"),
        ({"type": "object", "properties": {"a": {"$defs": {}}}}, r"\$defs"),
        (nested(MOST_DEPTH + 1), "deep"),
        (nested(900), "deep"),
        (fields(MOST_PROPERTIES + 1, True), "properties"),
        (fields(11, fields(10, True)), "properties"),
        (fields(MOST_BOUNDS + 1, {"type": "integer", "minimum": 0}), "bounds"),
        ({"enum": ["x" * MOST_CHARS]}, "characters"),
        ({"enum": [str(n) for n in range(5000)]}, "characters"),
        ({"$defs": {f"d{n}": {} for n in range(MOST_PROPERTIES + 1)}}, "entries"),
    ],
)
def test_what_is_not_kept_to_or_too_much_is_refused_and_named(schema: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named) as refusal:
        schema_text(schema)
    assert len(str(refusal.value)) < 1000


LONG = MOST_ENTRIES // 2 + 1


@pytest.mark.parametrize(
    "part",
    [
        {"anyOf": [{"const": n} for n in range(11500)]},
        {"anyOf": [{"enum": [1] * LONG}, {"enum": ["a"] * LONG}, *[{}] * LONG]},
        {"enum": [1, *[[]] * MOST_ENTRIES]},
        {"type": "object", "properties": {"a": {}}, "required": ["b"] * (MOST_ENTRIES + 1)},
    ],
)
def test_what_is_sure_to_be_too_long_is_refused_before_it_is_read(part: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Any] = []
    as_before = SchemaReader._read
    monkeypatch.setattr(SchemaReader, "_read", lambda *a: read.append(a) or as_before(*a))
    with pytest.raises(ValueError, match="entries of anyOf, enum and required have more than 8000 characters"):
        schema_text(fields(1, part))
    assert len(read) < 6


def test_ways_are_the_same_only_if_their_values_are() -> None:
    ways: list[Any] = [{"const": 1}, {"const": True}, {"type": "object", "properties": {}}, {"const": 1}]
    ways += [{"properties": {}, "type": "object"}]
    assert json.loads(schema_text({"anyOf": ways})) == {"anyOf": [{"enum": [1]}, {"enum": [True]}, ways[2]]}
    assert "true" in schema_text({"anyOf": ways})


def test_references_that_branch_are_read_in_time() -> None:
    definitions: dict[str, Any] = {f"d{n}": {"anyOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(60)}
    assert schema_text({"$ref": "#/$defs/d0", "$defs": {**definitions, "d60": {"type": "string"}}})


@pytest.mark.parametrize(
    "given",
    [
        {"type": "json_schema"},
        {"type": "text", "json_schema": {"name": "x", "schema": {}}},
        {"type": "grammar"},
        {"type": "json_schema", "json_schema": {"name": "x", "schema": []}},
        {"type": "json_schema", "json_schema": {"name": "x" * 65, "schema": {}}},
        {"type": "json_schema", "json_schema": {"name": "x", "schema": {"not": {}}}},
        {"type": "json_object", "schema": {}},
    ],
)
def test_a_format_that_is_none_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(pydantic.ValidationError):
        ResponseFormat.model_validate(given)


def test_a_format_says_what_is_followed() -> None:
    assert ResponseFormat.model_validate({"type": "text"}).followed == ""
    for given in ({"type": "json_object"}, {"type": "json_schema", "json_schema": {"name": "any"}}):
        assert json.loads(ResponseFormat.model_validate(given).followed) == {"type": "object"}
