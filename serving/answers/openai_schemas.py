"""Bodies of requests below `/v1`, as OpenAI's clients send them.

An unsupported parameter that would change the answer is refused, unless its value changes nothing. Parameters that do
not change the answer are accepted and ignored.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from llmops.data.retrieval import minilm
from serving.answers.openai_tools import (
    MAX_TOOLS,
    EarlierCall,
    Function,
    Tool,
    ToolChoice,
    describe_functions,
    format_call,
    format_result,
    make_structural_tag,
)
from serving.answers.schemas import (
    CONVERSATION_ID,
    GROUND_DESCRIPTION,
    MAX_TOKENS,
    ModelName,
    Sampling,
    ValidStr,
)
from serving.answers.structured import ResponseFormat, check_together
from serving.engines.base import Message

MAX_ANSWERS = 20  #: most answers to one request; LangChain sends so many prompts at a time
MAX_TEXTS = 128  #: most texts of one request for vectors; with 256 tokens each they take about 4 s on two cores


class Unsupported(NamedTuple):
    """A parameter that is refused, unless its value changes nothing."""

    neutral: tuple[Any, ...]  #: values that change nothing
    reason: str = ""  #: the reason, and what to do instead


_ODDS = "the engines do not change the odds of tokens; leave it out"
_TEXT_ONLY = "the models read and write text only; leave it out"
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
    def functions(self) -> list[Function]:
        """Return the functions of which the answer may call one."""
        return []

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


class TextPart(BaseModel):
    """A text part of a message. Other parts are not supported."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["text"]
    text: ValidStr


class ChatMessage(BaseModel):
    """One turn of a conversation."""

    model_config = ConfigDict(extra="forbid")

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: ValidStr | list[TextPart] | None = None
    tool_calls: list[EarlierCall] | None = Field(None, description="Calls of functions in an assistant's message.")
    tool_call_id: str | None = Field(None, description="The call whose result a message of the role `tool` has.")
    name: Any = Field(None, description="Accepted and ignored.")
    refusal: None = None
    audio: None = None
    function_call: None = None
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None
    parsed: Any = Field(None, description="Of OpenAI's client; accepted and ignored.")
    provider_specific_fields: Any = Field(None, description="LiteLLM's; accepted and ignored.")

    @property
    def turn(self) -> Message:
        """Return the message as an engine takes it."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content or ())
        if self.role == "tool":
            return Message("tool", format_result(text))
        calls = [format_call(call) for call in self.tool_calls or ()]
        text = "\n".join([text, *calls] if text else calls)
        return Message("system" if self.role == "developer" else self.role, text)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unread(cls, message: Any) -> Any:
        if isinstance(message, dict):
            parts = message.get("content")
            if message.get("role") == "function":
                raise _refuse("role", "it is an older form of tool; use that")
            if isinstance(parts, list) and any(isinstance(one, dict) and one.get("type") != "text" for one in parts):
                raise _refuse("content", _TEXT_ONLY)
        return message

    @model_validator(mode="after")
    def _check_content(self) -> Self:
        if self.content is None and self.role != "assistant":
            raise ValueError("content is missing; only an assistant's may be null")
        if self.tool_calls and self.role != "assistant":
            raise ValueError("tool_calls belong to the role assistant")
        if (self.tool_call_id is not None) != (self.role == "tool"):
            raise ValueError("a message of the role tool, and no other, has a tool_call_id")
        return self


class ChatRequest(OpenAIRequest):
    """A conversation that the model continues."""

    messages: list[ChatMessage] = Field(min_length=1, max_length=1000)
    max_completion_tokens: int | None = Field(None, ge=1, le=MAX_TOKENS, description="The newer name of max_tokens.")
    response_format: ResponseFormat | None = None
    tools: Annotated[list[Tool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: Literal["auto", "required"] | ToolChoice | None = Field(
        None, description="`auto`, the default: the model may call one of `tools`; `required`: it must; or a name."
    )
    logprobs: bool | None = Field(None, description="Return the log-probability of each token of the answer.")
    ground: bool | None = Field(None, description=GROUND_DESCRIPTION)

    @property
    def functions(self) -> list[Function]:
        """See `OpenAIRequest`."""
        known, choice = [tool.function for tool in self.tools or ()], self.tool_choice
        return [one for one in known if one.name == choice.function.name] if isinstance(choice, ToolChoice) else known

    @property
    def turns(self) -> tuple[Message, ...]:
        """Return the conversation as an engine takes it, with the functions before all messages."""
        known = [tool.function for tool in self.tools or ()]
        functions = (Message("tools", describe_functions(known)),) if known else ()
        return *functions, *(message.turn for message in self.messages)

    @property
    def schema_text(self) -> str:
        """Return the grammar of the answer: a JSON schema or a structural tag; empty if there is none."""
        if self.functions:
            return make_structural_tag(self.functions, self.tool_choice not in (None, "auto"))
        return self.response_format.schema_text if self.response_format else ""

    @model_validator(mode="after")
    def _check_tools(self) -> Self:
        if self.functions and self.response_format and self.response_format.schema_text:
            raise _refuse("response_format", "with tools the answer is a text or a call; leave it out, or tools")
        if self.tool_choice not in (None, "auto") and not self.functions:
            raise _refuse("tool_choice", "it must name one of tools, and with required there must be one")
        if len({one.name for one in self.functions}) < len(self.functions):
            raise ValueError("tools: two functions have the same name")
        try:
            check_together([one.object_schema for one in self.functions])
        except ValueError as error:
            raise ValueError(f"tools: the parameters of all functions together are too large: {error}") from None
        return self

    @model_validator(mode="after")
    def _check_results(self) -> Self:
        ids: set[str] = set()
        for message in self.messages:
            ids.update(call.id for call in message.tool_calls or ())
            if message.tool_call_id is not None and message.tool_call_id not in ids:
                raise ValueError("messages: a tool_call_id must be the id of a call in an earlier message")
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
            raise ValueError(
                "send texts, not token ids, which another model's tokenizer made; for LangChain's OpenAIEmbeddings set "
                "check_embedding_ctx_length=False"
            )
        return value


def _refuse(name: str, reason: str) -> PydanticCustomError:
    return PydanticCustomError("unsupported", "is not supported: {reason}", {"name": name, "reason": reason})


def _is_equal(a: Any, b: Any) -> bool:
    """Return True if two JSON values are equal; `true` is not 1."""
    return bool(a == b) and isinstance(a, bool) == isinstance(b, bool)
