"""`tools`: the functions that a model may call, in the form that Hermes, Qwen and SmolLM2 are trained on.

All models get this form, whatever their chat template. The functions stand before the first question. A call is JSON
between `<tool_call>` and `</tool_call>`, and a result stands between `<tool_response>` and `</tool_response>`.

The engine's grammar lets a model write `<tool_call>` only if a call of one of the functions follows. An answer ends
after its first call.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from serving.answers.schemas import ValidStr
from serving.answers.structured import clean_schema

MAX_TOOLS = 20  #: most functions of one request

_CALL, _ARGUMENTS, _CALL_END = '<tool_call>\n{"name": ', ', "arguments": ', "}\n</tool_call>"
_TRIGGER = "<tool_call>"
_CALL_START = re.compile(f'{re.escape(_CALL)}"([^"]+)"{re.escape(_ARGUMENTS)}')
_INTRODUCTION = """\
# Tools

You may call a function to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{functions}
</tools>

For a function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:
<tool_call>
{{"name": <function-name>, "arguments": <args-json-object>}}
</tool_call>"""


def _check_parameters(parameters: dict[str, Any]) -> dict[str, Any]:
    if parameters.get("type", "object") != "object":
        raise ValueError("the arguments of a function are an object; say type: object")
    clean_schema(_make_object_schema(parameters))
    json.dumps(parameters, ensure_ascii=False).encode()  # raises ValueError for half of a surrogate pair
    return parameters


def _make_object_schema(parameters: dict[str, Any]) -> dict[str, Any]:
    return parameters if "$ref" in parameters else {"type": "object", **parameters}


class Function(BaseModel):
    """A function of the caller's program."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(pattern="^[A-Za-z0-9_-]{1,64}$")
    parameters: Annotated[dict[str, Any], AfterValidator(_check_parameters)] = Field(
        {}, description="A JSON schema of the type object."
    )
    description: ValidStr | None = None
    strict: Any = Field(None, description="Accepted and ignored: the arguments always follow the schema.")

    @property
    def object_schema(self) -> dict[str, Any]:
        """Return the schema of the arguments. It says that they are an object."""
        return _make_object_schema(self.parameters)


class Tool(BaseModel):
    """A tool; only functions are known."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["function"]
    function: Function


class FunctionName(BaseModel):
    """The name of a function."""

    name: str


class ToolChoice(BaseModel):
    """The function that the answer calls."""

    type: Literal["function"]
    function: FunctionName


class CalledFunction(BaseModel):
    """A function that an earlier answer called, and its arguments as JSON."""

    name: ValidStr
    arguments: ValidStr


class EarlierCall(BaseModel):
    """A call in an earlier answer."""

    id: Annotated[str, Field(min_length=1)]
    type: Literal["function"] = "function"
    function: CalledFunction


def describe_functions(functions: Sequence[Function]) -> str:
    """Return the text that tells a model its functions, and how it calls one."""
    lines: list[str] = []
    for one in functions:
        function = {"name": one.name, "description": one.description or "", "parameters": one.object_schema}
        lines.append(json.dumps({"type": "function", "function": function}, ensure_ascii=False))
    return _INTRODUCTION.format(functions="\n".join(lines))


def format_call(call: EarlierCall) -> str:
    """Return an earlier call as the model wrote it."""
    name, arguments = json.dumps(call.function.name, ensure_ascii=False), call.function.arguments
    return f"{_CALL}{name}{_ARGUMENTS}{arguments}{_CALL_END}"


def format_result(text: str) -> str:
    """Return a function's result as a model reads it."""
    return f"<tool_response>\n{text}\n</tool_response>"


def make_structural_tag(functions: Sequence[Function], must_call: bool) -> str:
    """Return the grammar of an answer that may call a function, or must, as a structural tag of XGrammar."""
    tags = [
        {
            "begin": f'{_CALL}"{function.name}"{_ARGUMENTS}',
            "content": {"type": "json_schema", "json_schema": json.loads(clean_schema(function.object_schema))},
            "end": _CALL_END,
        }
        for function in functions
    ]
    form = {
        "type": "triggered_tags",
        "triggers": [_TRIGGER],
        "tags": tags,
        "at_least_one": must_call,
        "stop_after_first": True,
    }
    return json.dumps({"type": "structural_tag", "format": form}, ensure_ascii=False, separators=(",", ":"))


class Piece(NamedTuple):
    """A piece of an answer: text, the name of a function whose call begins, and a part of its arguments."""

    text: str
    name: str = ""
    arguments: str = ""


@dataclass(slots=True)
class CallReader:
    """A reader that splits an answer into its text and its call, piece by piece."""

    complete: bool = False  #: True if the call has ended
    _held: str = ""  #: text that may belong to a mark
    _calling: bool = False  #: True if the call has begun

    def read(self, text: str, last: bool) -> Piece:
        """Return the part of an answer that is certain. Nothing is held back after the `last` piece."""
        self._held += text
        before = name = ""
        if not self._calling:
            before, name = self._read_text(last)
        return Piece(before, name, self._read_arguments(last) if self._calling else "")

    def _read_text(self, last: bool) -> tuple[str, str]:
        """Return the text before the call, and the function's name if the call begins."""
        if start := _CALL_START.search(self._held):
            text, self._held, self._calling = self._held[: start.start()], self._held[start.end() :], True
            return text, start[1]
        text, trigger, _ = self._held.partition(_TRIGGER)
        if not trigger and not last:
            text = text[: len(text) - _count_overlap(text, _TRIGGER)]
        self._held = self._held[len(text) :]
        return text, ""

    def _read_arguments(self, last: bool) -> str:
        arguments, end, _ = self._held.partition(_CALL_END)
        if end:
            self.complete, self._held = True, ""
            return arguments
        if not last:
            arguments = arguments[: len(arguments) - _count_overlap(arguments, _CALL_END)]
        self._held = self._held[len(arguments) :]
        return arguments


def _count_overlap(text: str, mark: str) -> int:
    """Return how many characters at the end of a text may begin a mark."""
    return max((n for n in range(1, len(mark)) if text.endswith(mark[:n])), default=0)
