"""Bodies of requests and answers below `/v1`, as OpenAI's clients send and expect them.

An unsupported parameter that would change the answer is refused, unless its value changes nothing. Parameters that do
not change the answer are accepted and ignored.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from llmops.data.retrieval import minilm
from serving.answers.schemas import GROUND_DESCRIPTION, MAX_TOKENS, ModelName, Sampling, Sources, ValidStr
from serving.answers.structured import ResponseFormat
from serving.engines.base import FinishReason

MAX_ANSWERS = 20  #: most answers to one request; LangChain sends so many prompts at a time
MAX_TEXTS = 128  #: most texts of one request for vectors; with 256 tokens each they take about 4 s on two cores

#: unsupported parameter → its values that change nothing
NEUTRAL_VALUES: dict[str, tuple[Any, ...]] = {
    "audio": (),
    "best_of": (1,),
    "echo": (False,),
    "frequency_penalty": (0,),
    "function_call": ("none",),
    "functions": ([],),
    "logit_bias": ({},),
    "logprobs": (False,),
    "modalities": (["text"],),
    "parallel_tool_calls": (True, False),
    "prediction": (),
    "presence_penalty": (0,),
    "response_format": ({"type": "text"},),
    "suffix": ("",),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "top_logprobs": (0,),
    "verbosity": ("medium",),
    "web_search_options": (),
}


class StreamOptions(BaseModel):
    """The options of a stream."""

    model_config = ConfigDict(extra="forbid")

    include_usage: bool = Field(False, description="Count the tokens in an event before the last.")
    include_obfuscation: bool = Field(False, description="Accepted and ignored.")


class OpenAIRequest(Sampling):
    """The fields of both routes."""

    model_config = ConfigDict(extra="forbid")

    model: ModelName = Field(description="Name in the registry, or `name:v3` for one version, if it is loaded.")
    max_tokens: int | None = Field(None, ge=1, le=MAX_TOKENS, description="Longest answer, in tokens.")
    n: int | None = Field(None, ge=1, le=MAX_ANSWERS, description="Answers to each prompt; default 1.")
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: Any = Field(None, description="Accepted and ignored, like all below.")
    metadata: Any = None
    store: Any = None
    service_tier: Any = None
    safety_identifier: Any = None
    prompt_cache_key: Any = None
    prompt_cache_retention: Any = None
    reasoning_effort: Any = None

    @model_validator(mode="before")
    @classmethod
    def _refuse_unsupported(cls, body: Any) -> Any:
        if not isinstance(body, dict):
            return body
        unsupported = [name for name in NEUTRAL_VALUES if name not in cls.model_fields]
        if body.get("tool_choice") == "none":
            body = {name: value for name, value in body.items() if name != "tools"}
        for name in unsupported:
            value = body.get(name)
            if value is not None and not any(_is_equal(value, neutral) for neutral in NEUTRAL_VALUES[name]):
                raise PydanticCustomError("unsupported", "{name} is not supported; leave it out", {"name": name})
        return {name: value for name, value in body.items() if name not in unsupported}


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
    ground: bool | None = Field(None, description=GROUND_DESCRIPTION)


class CompletionRequest(OpenAIRequest):
    """Texts or token ids that the model continues."""

    prompt: ValidStr | list[int] | list[ValidStr] | list[list[int]]


class OpenAIUsage(BaseModel):
    """Tokens of a request and its answers."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class AssistantMessage(BaseModel):
    """The answer's text."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class ChatChoice(BaseModel):
    """The answer to a conversation."""

    index: int
    message: AssistantMessage
    logprobs: None = None
    finish_reason: FinishReason


class CompletionChoice(BaseModel):
    """The continuation of a text."""

    index: int
    text: str
    logprobs: None = None
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
    sources: Sources = None


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


class Embedding(BaseModel):
    """The vector of a text, of length one."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingUsage(BaseModel):
    """Tokens of the texts, those that count."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingList(BaseModel):
    """The vectors of a request's texts, in their order."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage


class ModelCard(BaseModel):
    """A model that can be named in a request."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "llmops"


class ModelList(BaseModel):
    """All models that can be named in a request."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class OpenAIError(BaseModel):
    """The reason why a request was not answered."""

    message: str
    type: str
    param: str | None
    code: str | None


class OpenAIProblem(BaseModel):
    """The body of every error below `/v1`."""

    error: OpenAIError


def _is_equal(a: Any, b: Any) -> bool:
    """Return True if two JSON values are equal; `true` is not 1."""
    return bool(a == b) and isinstance(a, bool) == isinstance(b, bool)
