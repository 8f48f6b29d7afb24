"""The turns of a conversation, as OpenAI's clients send them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from serving.answers.schemas import Str
from serving.engines.base import Message, ToolCall
from serving.json_text import object_text

MOST_CALLS = 16  #: of tools in a turn


Name = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")]  #: of a tool


class TextPart(BaseModel):
    """A part of a message; there is nothing but text."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["text"]
    text: Str


class CalledFunction(BaseModel):
    """What was called, and with what."""

    model_config = ConfigDict(extra="forbid")

    name: Name
    arguments: Annotated[Str, AfterValidator(object_text)] = Field(description="A JSON object.")
    parsed_arguments: Any = Field(None, description="Taken, as OpenAI's client has it; changes nothing.")


class AskedCall(BaseModel):
    """A call of a tool in an assistant's turn."""

    model_config = ConfigDict(extra="forbid")

    id: Str = Field(min_length=1, max_length=200)
    type: Literal["function"] = "function"
    function: CalledFunction
    index: Any = Field(None, description="Taken; changes nothing.")


class ChatMessage(BaseModel):
    """One turn."""

    model_config = ConfigDict(extra="forbid")

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Str | Annotated[list[TextPart], Field(fail_fast=True)] | None = Field(
        None, description="Of an assistant's turn it may be null or left out."
    )
    name: Any = Field(None, description="Taken; changes nothing.")
    refusal: None = None
    tool_calls: Annotated[list[AskedCall], Field(max_length=MOST_CALLS, fail_fast=True)] | None = Field(
        None, description="Of an assistant's turn."
    )
    tool_call_id: Str | None = Field(None, description="Of a tool's turn: the call that it is the result of.")
    audio: None = None
    function_call: None = None
    parsed: Any = Field(None, description="Taken, as OpenAI's client has it; changes nothing.")
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None
    provider_specific_fields: Any = Field(None, description="Taken, as LiteLLM sends it back; changes nothing.")

    @property
    def text(self) -> str:
        """All of its text."""
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content)
        return self.content or ""

    @field_validator("tool_calls")
    @classmethod
    def _none(cls, value: list[AskedCall] | None) -> list[AskedCall] | None:
        return value or None

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.content is None and self.role != "assistant":
            raise ValueError("content is missing")
        if self.tool_calls and self.role != "assistant":
            raise ValueError("tool_calls belong to an assistant's turn")
        if (self.role == "tool") != (self.tool_call_id is not None):
            raise ValueError("tool_call_id belongs to a turn of the role tool, which must have one")
        return self


def turns_of(messages: Sequence[ChatMessage]) -> tuple[Message, ...]:
    """Turns as engines get them, results of tools with the call that they belong to.

    Raises:
        ValueError: if a result belongs to none before it.
    """
    turns: list[Message] = []
    known: dict[str, ToolCall] = {}
    for n, message in enumerate(messages):
        calls = tuple(ToolCall(c.function.name, c.function.arguments, c.id) for c in message.tool_calls or ())
        known |= {call.id: call for call in calls}
        if message.role == "tool" and message.tool_call_id not in known:
            raise ValueError(f"the tool_call_id of turn {n} is of no call before it")
        call = known[message.tool_call_id] if message.tool_call_id is not None else None
        role = "system" if message.role == "developer" else message.role
        turns.append(Message(role, message.text, calls, call))
    return tuple(turns)
