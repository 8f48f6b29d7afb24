"""What goes over the wire below `/v1`, as OpenAI's clients send and expect it.

A parameter that would change the answer and is not supported is refused, unless it has a value that asks for nothing.
Parameters that do not change the answer are taken and left aside.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictInt, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from serving.answers.conversation import ChatMessage, turns_of
from serving.answers.schemas import MOST_TOKENS, Sampling, Source, Str, Texts
from serving.answers.structured import ResponseFormat
from serving.answers.tools import ToolSettings
from serving.engines.base import FinishReason

MOST_ANSWERS = 20  #: to one request; LangChain sends so many prompts at a time

#: parameter that no engine here does, or not on this route → its values that ask for nothing
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "audio": (),
    "best_of": (1,),
    "echo": (False,),
    "frequency_penalty": (0,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "logit_bias": ({},),
    "modalities": (["text"],),
    "parallel_tool_calls": (True, False),
    "prediction": (),
    "presence_penalty": (0,),
    "response_format": ({"type": "text"},),
    "suffix": ("",),
    "tools": ([],),
    "tool_choice": ("none", "auto"),  # the cause is named first
    "top_logprobs": (0,),
    "web_search_options": (),
}


INSTEAD = {"functions": ", and send them as tools"}  #: what to do, where there is something


class StreamOptions(BaseModel):
    """About a stream."""

    model_config = ConfigDict(extra="forbid")

    include_usage: bool = Field(False, description="Count the tokens in an event before the last.")
    include_obfuscation: bool = Field(False, description="Taken; there is none.")
    continuous_usage_stats: bool = Field(False, description="vLLM's: count them in every event, too.")


class OpenAIRequest(Sampling):
    """What both routes take."""

    model_config = ConfigDict(extra="forbid")

    model: Str = Field(description="Name in the registry, or `name:v3` for one version, if it is loaded.")
    max_tokens: int | None = Field(None, ge=1, le=MOST_TOKENS, description="Longest answer, in tokens.")
    n: int | None = Field(None, ge=1, le=MOST_ANSWERS, description="Answers to each prompt; default 1.")
    ignore_eos: bool | None = Field(
        None, description="vLLM's, for measuring: go on where the model ends its answer, up to the longest answer."
    )
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: Any = Field(None, description="Taken; changes nothing, as all below.")
    metadata: Any = None
    store: Any = None
    service_tier: Any = None
    safety_identifier: Any = None
    prompt_cache_key: Any = None
    prompt_cache_retention: Any = None
    reasoning_effort: Any = Field(None, description="Taken; the models here do not reason before they answer.")
    verbosity: Any = None

    @property
    def endless(self) -> bool:
        """Whether an answer goes on where the model ends it."""
        return bool(self.ignore_eos)

    @model_validator(mode="before")
    @classmethod
    def _refuse_what_is_not_done(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        left_out = NEUTRAL.keys() - cls.model_fields.keys()
        for name, neutral_values in NEUTRAL.items():
            given = value.get(name) if name in left_out else None
            if given is not None and not any(_same(given, neutral) for neutral in neutral_values):
                known = {"name": name, "instead": INSTEAD.get(name, "")}
                raise PydanticCustomError("not_done", "{name} is not supported; leave it out{instead}", known)
        return {name: given for name, given in value.items() if name not in left_out}


class ChatRequest(OpenAIRequest, ToolSettings):
    """A conversation that the model goes on with."""

    messages: list[ChatMessage] = Field(min_length=1, max_length=1000)
    max_completion_tokens: int | None = Field(None, ge=1, le=MOST_TOKENS, description="The newer name of max_tokens.")
    ground: bool | None = Field(
        None,
        description="Ours: whether to answer the last question from the documents; default: as configured, for an "
        "answer in plain text.",
    )
    response_format: ResponseFormat | None = Field(
        None, description="JSON, or JSON after a schema, where the engine makes answers follow one."
    )
    logprobs: bool | None = Field(None, description="Tell the log-probability of each token of the answer.")
    top_logprobs: int | None = Field(
        None, ge=0, le=20, description="And those of the likeliest in its place, where the engine tells them."
    )

    @field_validator("messages")
    @classmethod
    def _fit_together(cls, value: list[ChatMessage]) -> list[ChatMessage]:
        turns_of(value)  # raises what is wrong with them
        return value

    @field_validator("top_logprobs")
    @classmethod
    def _with_logprobs(cls, value: int | None, known: ValidationInfo) -> int | None:
        if value and not known.data.get("logprobs"):
            raise ValueError("is only taken with logprobs: true")
        return value


class CompletionRequest(OpenAIRequest):
    """Texts, or token ids, that the model goes on with."""

    prompt: Texts
    logprobs: StrictInt | None = Field(
        None,
        ge=0,
        le=5,
        description="Tell the log-probability of each token of the answer, and of so many likeliest in its place.",
    )

    @field_validator("logprobs", mode="before")
    @classmethod
    def _none(cls, value: Any) -> Any:
        return None if value is False else value


class OpenAIUsage(BaseModel):
    """Tokens of a request and its answers."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class CallOfFunction(BaseModel):
    """What to call, and with what."""

    name: str
    arguments: str = Field(description="A JSON object.")


class Call(BaseModel):
    """A call of a tool that the caller is to make."""

    id: str
    type: Literal["function"] = "function"
    function: CallOfFunction


class AssistantMessage(BaseModel):
    """What the model said."""

    role: Literal["assistant"] = "assistant"
    content: str | None = Field(description="Null where there are calls and no text.")
    refusal: None = None
    tool_calls: list[Call] | None = Field(
        None, description="Left out where there are none.", exclude_if=lambda calls: calls is None
    )


class Likely(BaseModel):
    """A token and how likely the model found it."""

    token: str
    logprob: float
    bytes: list[int]


class ChatToken(Likely):
    """A token of an answer."""

    top_logprobs: list[Likely]


class ChatLogprobs(BaseModel):
    """The tokens of an answer to a conversation."""

    content: list[ChatToken]
    refusal: None = None


class CompletionLogprobs(BaseModel):
    """The tokens of how a text goes on."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]] | None
    text_offset: list[int]


class ChatChoice(BaseModel):
    """The answer to a conversation."""

    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None = None
    finish_reason: FinishReason


class CompletionChoice(BaseModel):
    """How a text goes on."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: FinishReason


class Completion(BaseModel):
    """The answers to a request; `model` names the version that gave them."""

    id: str
    object: Literal["chat.completion", "text_completion"]
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice] | list[CompletionChoice]
    usage: OpenAIUsage
    sources: list[Source] | None = Field(
        None,
        description="Ours: see `/generate`; in a stream they are in the last event.",
        exclude_if=lambda sources: sources is None,
    )


class ModelCard(BaseModel):
    """A model that can be named in a request."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "llmops"


class ModelList(BaseModel):
    """All that can be named in a request."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class OpenAIError(BaseModel):
    """Why a request was not answered."""

    message: str
    type: str
    param: str | None
    code: str | None


class OpenAIProblem(BaseModel):
    """The body of every error below `/v1`."""

    error: OpenAIError


def _same(a: Any, b: Any) -> bool:
    """Whether two JSON values are the same; `true` is not 1."""
    return bool(a == b) and isinstance(a, bool) == isinstance(b, bool)
