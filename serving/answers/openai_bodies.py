"""Bodies of answers below `/v1`, as OpenAI's clients expect them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from serving.answers.schemas import FromDocuments, Sources
from serving.engines.base import FinishReason


class OpenAIUsage(BaseModel):
    """Tokens of a request and its answers."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class FunctionCall(BaseModel):
    """A function and its arguments, as JSON."""

    name: str
    arguments: str


class ToolCall(BaseModel):
    """A call of a function, which the caller's program may carry out."""

    id: str
    type: Literal["function"] = "function"
    function: FunctionCall


class AssistantMessage(BaseModel):
    """The answer: a text, or the call of a function."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: None = None
    tool_calls: list[ToolCall] | None = Field(None, exclude_if=lambda value: value is None)


class TokenLogprob(BaseModel):
    """A token of the answer."""

    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[Any] = Field(default_factory=list, description="Always empty.")


class Logprobs(BaseModel):
    """The tokens of the answer that have left."""

    content: list[TokenLogprob]
    refusal: None = None


class ChatChoice(BaseModel):
    """The answer to a conversation."""

    index: int
    message: AssistantMessage
    logprobs: Logprobs | None = None
    finish_reason: FinishReason | Literal["tool_calls"]


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
    from_documents: FromDocuments = None


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
