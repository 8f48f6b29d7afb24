"""Bodies of requests below `/v1`, as OpenAI's clients send them.

An unsupported parameter that would change the answer is refused, unless its value changes nothing. Parameters that do
not change the answer are accepted and ignored.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from llmops.data.retrieval import minilm
from serving.answers.schemas import (
    CONVERSATION_ID,
    GROUND_DESCRIPTION,
    MAX_TOKENS,
    ModelName,
    Sampling,
    ValidStr,
)
from serving.answers.structured import ResponseFormat, clean_schema

MAX_ANSWERS = 20  #: most answers to one request; LangChain sends so many prompts at a time
MAX_TOOLS = 20  #: most functions of one request
MAX_TEXTS = 128  #: most texts of one request for vectors; with 256 tokens each they take about 4 s on two cores


class Unsupported(NamedTuple):
    """A parameter that is refused, unless its value changes nothing."""

    neutral: tuple[Any, ...]  #: values that change nothing
    reason: str = ""  #: the reason, and what to do instead


_ODDS = "the engines do not change the odds of tokens; leave it out"
_TEXT_ONLY = "the models read and write text only; leave it out"
_NO_RESULTS = "the models read no results of functions; send them as a user's text"
_CHAT_ONLY = "a text is continued as it is; use /v1/chat/completions"

#: A test sends every parameter, and compares the answers with the table of docs/clients.md.
UNSUPPORTED: dict[str, Unsupported] = {
    "audio": Unsupported((), _TEXT_ONLY),
    "best_of": Unsupported((1,), "answers are not compared with each other; ask for n answers"),
    "echo": Unsupported((False,), "only the continuation is returned; put the prompt before it"),
    "frequency_penalty": Unsupported((0,), _ODDS),
    "function_call": Unsupported(("none",), "it is an older form of tool_choice; use that"),
    "functions": Unsupported(([],), "it is an older form of tools; use that"),
    "logit_bias": Unsupported(({},), _ODDS),
    "logprobs": Unsupported((False,), _CHAT_ONLY),
    "modalities": Unsupported((["text"],), _TEXT_ONLY),
    "parallel_tool_calls": Unsupported((True, False), "it must be true or false"),
    "prediction": Unsupported((), "no engine starts from a predicted text; leave it out"),
    "presence_penalty": Unsupported((0,), _ODDS),
    "response_format": Unsupported(({"type": "text"},), _CHAT_ONLY),
    "suffix": Unsupported(("",), "a text is only continued at its end; leave it out"),
    "tools": Unsupported(([],), _CHAT_ONLY),
    "tool_choice": Unsupported(("none", "auto"), _CHAT_ONLY),
    "top_logprobs": Unsupported((0,), "only the token that was chosen has a log-probability; ask for logprobs alone"),
    "verbosity": Unsupported(("medium",), "the models have no such setting; ask for a short or long answer in words"),
    "web_search_options": Unsupported((), "nothing here searches the web; ground answers from the documents"),
}


class StreamOptions(BaseModel):
    """The options of a stream."""

    model_config = ConfigDict(extra="forbid")

    include_usage: bool = Field(False, description="Count the tokens in an event before the last.")
    include_obfuscation: bool = Field(False, description="Accepted and ignored.")
    continuous_usage_stats: bool = Field(False, description="vLLM's, which guidellm sends; accepted and ignored.")


class OpenAIRequest(Sampling):
    """The fields of both routes."""

    model_config = ConfigDict(extra="forbid")

    model: ModelName = Field(description="Name in the registry, or `name:v3` for one version, if it is loaded.")
    max_tokens: int | None = Field(None, ge=1, le=MAX_TOKENS, description="Longest answer, in tokens.")
    n: int | None = Field(None, ge=1, le=MAX_ANSWERS, description="Answers to each prompt; default 1.")
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: Any = Field(None, description="Accepted and ignored, like all below.")
    metadata: Any = Field(None, description="`session_id` names the conversation, like the header X-Session-ID.")
    store: Any = None
    service_tier: Any = None
    safety_identifier: Any = None
    prompt_cache_key: Any = None
    prompt_cache_retention: Any = None
    reasoning_effort: Any = None

    @property
    def conversation(self) -> str:
        """Return the conversation's id; empty if there is none."""
        return str(self.metadata.get("session_id") or "") if isinstance(self.metadata, dict) else ""

    @property
    def function(self) -> Function | None:
        """Return the function whose arguments are asked for; None: the answer is text."""
        return None

    @field_validator("metadata")
    @classmethod
    def _check_conversation(cls, value: Any) -> Any:
        given = value.get("session_id") if isinstance(value, dict) else None
        if given is not None and not (isinstance(given, str) and re.fullmatch(CONVERSATION_ID, given)):
            raise ValueError("session_id must be 1 to 100 letters, digits and . _ : -")
        return value

    @model_validator(mode="before")
    @classmethod
    def _refuse_unsupported(cls, body: Any) -> Any:
        if not isinstance(body, dict):
            return body
        unsupported = [name for name in UNSUPPORTED if name not in cls.model_fields]
        if body.get("tool_choice") == "none":
            body = {name: value for name, value in body.items() if name not in ("tools", "tool_choice")}
        for name in unsupported:
            value, known = body.get(name), UNSUPPORTED[name]
            if value is not None and not any(_is_equal(value, neutral) for neutral in known.neutral):
                raise _refuse(name, known.reason)
        return {name: value for name, value in body.items() if name not in unsupported}


def _clean_parameters(schema: dict[str, Any]) -> str:
    if schema.get("type", "object") != "object":
        raise ValueError("the arguments of a function are an object; say type: object")
    return clean_schema(schema if "$ref" in schema else {"type": "object", **schema})


class Function(BaseModel):
    """A function of the caller's program. Its description is ignored, because the model does not see it."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(pattern="^[A-Za-z0-9_-]{1,64}$")
    parameters: Annotated[dict[str, Any], AfterValidator(_clean_parameters)] = Field(
        {}, validate_default=True, description="A JSON schema of the type object."
    )
    description: Any = None
    strict: Any = None

    @property
    def schema_text(self) -> str:
        """Return the schema of the arguments, as JSON."""
        return str(self.parameters)  # a string since its validation


class Tool(BaseModel):
    """A tool; only functions are known."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["function"]
    function: Function


class FunctionName(BaseModel):
    """The name of a function."""

    name: str


class ToolChoice(BaseModel):
    """The function whose arguments are asked for."""

    type: Literal["function"]
    function: FunctionName


class TextPart(BaseModel):
    """A text part of a message. Other parts are not supported."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["text"]
    text: ValidStr


class ChatMessage(BaseModel):
    """One turn of a conversation."""

    model_config = ConfigDict(extra="forbid")

    role: Literal["system", "developer", "user", "assistant"]
    content: ValidStr | list[TextPart] | None = None
    name: Any = Field(None, description="Accepted and ignored.")
    refusal: None = None
    tool_calls: Annotated[list[Any], Field(max_length=0)] | None = None
    audio: None = None
    function_call: None = None
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None
    provider_specific_fields: Any = Field(None, description="LiteLLM's; accepted and ignored.")

    @property
    def text(self) -> str:
        """Return the text of all parts."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content or ())

    @model_validator(mode="before")
    @classmethod
    def _refuse_unread(cls, message: Any) -> Any:
        if isinstance(message, dict):
            parts = message.get("content")
            if message.get("role") in ("tool", "function"):
                raise _refuse("role", _NO_RESULTS)
            if message.get("tool_calls"):
                raise _refuse("tool_calls", _NO_RESULTS)
            if isinstance(parts, list) and any(isinstance(one, dict) and one.get("type") != "text" for one in parts):
                raise _refuse("content", _TEXT_ONLY)
        return message

    @model_validator(mode="after")
    def _check_content(self) -> Self:
        if self.content is None and self.role != "assistant":
            raise ValueError("content is missing; only an assistant's may be null")
        return self


class ChatRequest(OpenAIRequest):
    """A conversation that the model continues."""

    messages: list[ChatMessage] = Field(min_length=1, max_length=1000)
    max_completion_tokens: int | None = Field(None, ge=1, le=MAX_TOKENS, description="The newer name of max_tokens.")
    response_format: ResponseFormat | None = None
    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: Literal["auto", "required"] | ToolChoice | None = Field(
        None, description="Names the function whose arguments the answer is; `required`: the only one of `tools`."
    )
    logprobs: bool | None = Field(None, description="Return the log-probability of each token of the answer.")
    ground: bool | None = Field(None, description=GROUND_DESCRIPTION)

    @property
    def function(self) -> Function | None:
        """See `OpenAIRequest`."""
        known, choice = {one.function.name: one.function for one in self.tools or ()}, self.tool_choice
        if isinstance(choice, ToolChoice):
            return known.get(choice.function.name)
        return next(iter(known.values())) if choice == "required" and len(known) == 1 else None

    @model_validator(mode="after")
    def _check_tools(self) -> Self:
        if self.function and self.response_format and self.response_format.schema_text:
            raise _refuse("response_format", "the answer is a function's arguments; leave it out, or tools")
        if self.tools and self.tool_choice in (None, "auto"):
            raise _refuse("tools", "the models do not choose a function; name one in tool_choice, or send none")
        if self.tool_choice not in (None, "auto") and not self.function:
            raise _refuse("tool_choice", "it must name one of tools, and with required there must be one")
        return self


class CompletionRequest(OpenAIRequest):
    """Texts or token ids that the model continues."""

    prompt: ValidStr | list[int] | list[ValidStr] | list[list[int]]


class EmbeddingRequest(BaseModel):
    """Texts whose vectors are asked for."""

    model_config = ConfigDict(extra="forbid")

    model: ModelName = Field(description=f"`{minilm.MODEL_NAME}`.")
    input: ValidStr | Annotated[list[ValidStr], Field(min_length=1, max_length=MAX_TEXTS)] = Field(
        description=f"Only the first {minilm.MAX_TOKENS} tokens of a text count."
    )
    encoding_format: Literal["float", "base64"] | None = Field(None, description="base64: of float32, little-endian.")
    dimensions: Literal[384] | None = Field(None, description="Vectors are not shortened.")
    user: Any = Field(None, description="Taken; changes nothing.")

    @field_validator("input", mode="before")
    @classmethod
    def _is_no_tokens(cls, value: Any) -> Any:
        if isinstance(value, list) and any(isinstance(one, int | list) for one in value):
            raise ValueError("send texts, not token ids, which another model's tokenizer made")
        return value


def _refuse(name: str, reason: str) -> PydanticCustomError:
    return PydanticCustomError("unsupported", "is not supported: {reason}", {"name": name, "reason": reason})


def _is_equal(a: Any, b: Any) -> bool:
    """Return True if two JSON values are equal; `true` is not 1."""
    return bool(a == b) and isinstance(a, bool) == isinstance(b, bool)
