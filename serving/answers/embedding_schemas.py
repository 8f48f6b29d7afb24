"""What goes over the wire at `/v1/embeddings`, as OpenAI's clients send and expect it."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from llmops.embedding.embedder import BATCH, Vectors
from llmops.embedding.weights import DIMENSIONS, NAME
from serving.answers.schemas import Str, Texts, kind

MOST_TEXTS = 2048  #: of one request, as OpenAI takes

Format = Literal["float", "base64"]


def _not_too_many(value: Any) -> Any:
    if kind(value) == "list[str]" and not 1 <= len(value) <= MOST_TEXTS:
        raise ValueError(f"should have at least 1 item and at most {MOST_TEXTS} items, not {len(value)}")
    return value


class EmbeddingRequest(BaseModel):
    """Texts whose vectors are wanted."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"model": NAME, "input": "How do I return an item?"}]}
    )

    model: Str = Field(description=f"`{NAME}`; `GET /v1/models` lists it.")
    input: Annotated[Texts, BeforeValidator(_not_too_many)] = Field(
        description=f"A text, or up to {MOST_TEXTS}. Token ids are refused: a caller's are those of another tokenizer."
    )
    encoding_format: Format | None = Field(None, description="Default `float`; `base64` is of float32, little-endian.")
    dimensions: int | None = Field(None, description=f"{DIMENSIONS}, which there are, and no other number.")
    user: Any = Field(None, description="Taken; changes nothing.")


class Embedding(BaseModel):
    """The vector of one text; it is one long, so that the likeness of two is their dot product."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingUsage(BaseModel):
    """Tokens of a request's texts."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingList(BaseModel):
    """The vectors, in the order of the texts."""

    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage


def written(vectors: Vectors, tokens: int, form: Format) -> Iterator[bytes]:
    """An `EmbeddingList` as JSON, piece by piece."""
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    yield f'{{"object":"list","model":"{NAME}","usage":{json.dumps(usage)},"data":['.encode()
    for start in range(0, len(vectors), BATCH):
        rows = []
        for index, vector in enumerate(vectors[start : start + BATCH], start):
            encoded = base64.b64encode(vector.astype("<f4").tobytes()).decode() if form == "base64" else vector.tolist()
            row = {"object": "embedding", "index": index, "embedding": encoded}
            rows.append(json.dumps(row, separators=(",", ":")))
        yield ("," if start else "").encode() + ",".join(rows).encode()
    yield b"]}"
