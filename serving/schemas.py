"""What goes over the wire."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator


class GenerateRequest(BaseModel):
    """A question to the model."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"prompt": "How do I return an item?", "max_new_tokens": 60}]}
    )

    prompt: str = Field(description="The question.")
    max_new_tokens: int | None = Field(None, ge=1, description="Longest answer, in tokens; default 50.")
    max_length: int | None = Field(None, ge=1, description="The same under its classic name; give only one of both.")
    context: str = Field("", description="Text that the answer should rest on.")

    @field_validator("prompt", "context")
    @classmethod
    def _is_text(cls, value: str) -> str:
        if not value.isprintable() and any("\ud800" <= c <= "\udfff" for c in value):
            raise ValueError("holds half of a surrogate pair, which is no text")  # tokenizers fail on it
        return value


class Usage(BaseModel):
    """Tokens of a request and its answer."""

    input_tokens: int
    output_tokens: int


class GenerateResponse(BaseModel):
    """The model's answer."""

    response: str
    id: str = Field(description="Of this request; it is in the header X-Request-ID and in the event, too.")
    model: str = Field(description="Name of the model in the registry.")
    model_version: str
    usage: Usage
    finish_reason: Literal["stop", "length"] = Field(description="`length`: cut at the longest answer asked for.")


class Problem(BaseModel):
    """Why a request was not answered."""

    detail: str = Field(description="For people.")
    code: str = Field(description="For programs.")
    id: str = Field(description="Of this request.")


class PromoteRequest(BaseModel):
    """Which version to make the champion."""

    model_config = ConfigDict(extra="forbid")

    version: str = Field(min_length=1, examples=["v2"])
