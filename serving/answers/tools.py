"""`tools` and `tool_choice`: what a model may call, and the schema by which it must.

What a tool takes is shown to the model as it was sent. Only where a call is asked for is an answer made to follow it,
so only there it must be a schema that answers can follow: with all that is let through its grammar takes vLLM 0.15 s.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from serving.answers.conversation import MOST_CALLS, Name
from serving.answers.schemas import Str
from serving.answers.structured import MOST_CHARS, schema_text
from serving.engines.base import Calls
from serving.json_text import json_text

MOST_TOOLS = 64
MOST_ASKED = 64_000  #: characters of what tools take together, where one must be called

_NOTHING: dict[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}


class Function(BaseModel):
    """What is called."""

    model_config = ConfigDict(extra="forbid")

    name: Name
    description: Str | None = None
    parameters: dict[str, Any] | None = Field(None, description="Schema of the object that it takes; default: none.")
    strict: bool | None = Field(None, description="Taken; arguments are sure to fit where tool_choice asks for a call.")

    @field_validator("parameters")
    @classmethod
    def _is_of_an_object(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        json_text(value)
        if value and value.get("type", "object") != "object":
            raise ValueError("must be of the type object")
        return value


class Tool(BaseModel):
    """Something that a model may call."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["function"]
    function: Function


class NamedFunction(BaseModel):
    """The name of one."""

    model_config = ConfigDict(extra="forbid")

    name: str


class NamedTool(BaseModel):
    """The tool that is to be called."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["function"]
    function: NamedFunction


class ToolSettings(BaseModel):
    """What a request says of tools."""

    tools: Annotated[list[Tool], Field(max_length=MOST_TOOLS, fail_fast=True)] | None = Field(
        None,
        description="What the model may call, where the engine is `vllm` and the model's chat template knows tools.",
    )
    parallel_tool_calls: bool | None = Field(None, description="False: at most one call.")
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = Field(
        None, description="Whether a tool is called; default: as the model likes."
    )

    @field_validator("tools")
    @classmethod
    def _each_once(cls, value: list[Tool] | None) -> list[Tool] | None:
        names = [tool.function.name for tool in value or ()]
        if len(set(names)) < len(names):
            raise ValueError("two have the same name")
        return value

    @field_validator("tool_choice")
    @classmethod
    def _can_be_called(
        cls, value: Literal["none", "auto", "required"] | NamedTool | None, known: ValidationInfo
    ) -> Literal["none", "auto", "required"] | NamedTool | None:
        if value not in (None, "none", "auto") and "tools" in known.data:
            tools = known.data["tools"] or []
            if not _to_call(tools, value):
                raise ValueError("names none of tools" if tools else "is only taken with tools")
            calls_schema(_to_call(tools, value), 1)
        return value

    @property
    def shown(self) -> str:
        """The tools as the model is shown them, in JSON; empty: there are none."""
        return json_text([_shown(tool.function) for tool in self.tools]) if self.tools else ""

    @property
    def calls(self) -> Calls | None:
        """How an answer may call them; None: not at all."""
        if not self.tools or self.tool_choice == "none":
            return None
        one = self.parallel_tool_calls is False or isinstance(self.tool_choice, NamedTool)
        return Calls(1 if one else MOST_CALLS, forced=self.tool_choice not in (None, "auto"))

    @property
    def calls_followed(self) -> str:
        """The schema of an answer that is nothing but calls; empty: it may be text."""
        calls = self.calls
        return calls_schema(_to_call(self.tools or [], self.tool_choice), calls.most) if calls and calls.forced else ""


def calls_schema(tools: Sequence[Tool], most: int) -> str:
    """Schema of a list of 1 to `most` calls, objects with `name` and `arguments`.

    Raises:
        ValueError: naming the tool and what of its parameters no answer can be made to follow.
    """
    definitions: dict[str, Any] = {}
    shown = kept = 0  # characters of what all take
    for n, tool in enumerate(tools):
        given = tool.function.parameters or _NOTHING
        if not {"$ref", "anyOf", "allOf"} & given.keys():
            given = {"type": "object", **given}
        shown += len(json_text(given))
        if shown > MOST_ASKED or kept > MOST_CHARS:
            raise ValueError(f"cannot ask for these tools: up to {tool.function.name} they take too many characters")
        try:
            kept += len(text := schema_text(given))
            root = json.loads(text)
            own = root.pop("$defs", {})
            if not _is_of_objects(root, own):
                raise ValueError("schema: must be of the type object")
        except ValueError as error:
            raise ValueError(f"cannot ask for {tool.function.name}, parameters.{error}") from error
        for name, one in own.items():
            definitions[f"f{n}.{name}"] = _moved(one, f"f{n}")
        definitions[f"f{n}"] = _moved(root, f"f{n}")
    kinds = [
        {
            "type": "object",
            "properties": {"name": {"enum": [tool.function.name]}, "arguments": {"$ref": f"#/$defs/f{n}"}},
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for n, tool in enumerate(tools)
    ]
    whole = {"type": "array", "items": {"anyOf": kinds}, "minItems": 1, "maxItems": most, "$defs": definitions}
    try:
        schema_text({"type": "null", "$defs": definitions})  # what they take together is bounded, too
        return json.dumps(whole, ensure_ascii=False)
    except ValueError as error:
        raise ValueError(f"cannot ask for any of these tools, name one: {error}") from error


def _to_call(tools: Sequence[Tool], choice: str | NamedTool | None) -> list[Tool]:
    return [tool for tool in tools if not isinstance(choice, NamedTool) or tool.function.name == choice.function.name]


def _is_of_objects(root: dict[str, Any], definitions: dict[str, Any]) -> bool:
    """Whether whatever follows a schema, as `schema_text` gives it, is an object."""
    ahead, seen = [root], set[str]()
    while ahead:
        one = ahead.pop()
        if name := one.get("$ref", "").removeprefix("#/$defs/"):
            ahead += [] if name in seen else [definitions[name]]
            seen.add(name)
        elif "anyOf" in one:
            ahead += one["anyOf"]
        elif one.get("type") != "object":
            return False
    return True


def _shown(function: Function) -> dict[str, Any]:
    about = {} if function.description is None else {"description": function.description}
    parameters = function.parameters or {"type": "object", "properties": {}}
    return {"type": "function", "function": {"name": function.name, **about, "parameters": parameters}}


def _moved(schema: Any, to: str) -> Any:
    """A schema whose references are to definitions of that name, where its own have moved."""
    if isinstance(schema, list):
        return [_moved(one, to) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if isinstance(at := schema.get("$ref"), str):
        return {"$ref": f"#/$defs/{to}" + at.removeprefix("#").replace("/$defs/", ".")}
    return {name: _moved(one, to) for name, one in schema.items()}
