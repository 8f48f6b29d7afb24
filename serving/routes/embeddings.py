"""`POST /v1/embeddings`: vectors of texts, in the form of OpenAI's API."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from llmops.access.roles import Key
from llmops.embedding.weights import DIMENSIONS, NAME
from serving.admission.dependencies import AppParts, AppPartsDep, charge, limited
from serving.answers.delivery import heard
from serving.answers.embedding_schemas import EmbeddingList, EmbeddingRequest, written
from serving.answers.noted import MOST_NAME
from serving.errors import PromptRefused, VersionNotLoaded
from serving.http.pieces import Pieces
from serving.routes.openai import PROBLEMS

router = APIRouter(prefix="/v1", tags=["openai"], responses=PROBLEMS)


async def _with_place(app: AppPartsDep, key: Annotated[Key, Depends(limited("generate"))]) -> AsyncIterator[Key]:
    """The key of a request, which has one of its places until the answer has left."""
    with app.embeddings.places.take(key.prefix):
        yield key


@router.post("/embeddings", response_model=EmbeddingList)
async def embeddings(
    request: Request, app: AppPartsDep, key: Annotated[Key, Depends(_with_place)], body: EmbeddingRequest
) -> Response:
    """Make vectors of texts; texts of like meaning have like ones."""
    form = body.encoding_format or "float"
    request.state.event |= {"gen_ai.request.model": body.model[:MOST_NAME], "gen_ai.request.encoding_formats": [form]}
    if body.model != NAME or not app.embeddings.there:
        raise VersionNotLoaded(f"There is no model {body.model!r} for this; GET /v1/models lists those there are.")
    texts = _texts(body, app)
    digests = [app.digests.text(text) for text in texts]
    digest = digests[0] if len(texts) == 1 else app.digests.text(" ".join(digests))  # of two thousand, one all the same
    request.state.event |= {"llmops.prompt.digest": digest, "llmops.embedding.texts": len(texts)}
    rows = await app.embeddings.token_ids(texts)
    tokens = sum(map(len, rows))
    await charge(request, tokens)
    vectors = await heard(request, app.embeddings.vectors(rows, key.prefix), app.config.serving.timeout_s)
    request.state.event["gen_ai.usage.input_tokens"] = tokens
    return Pieces(request, written(vectors, tokens, form))


def _texts(body: EmbeddingRequest, app: AppParts) -> list[str]:
    """What is asked, within the limits of the configuration.

    Raises:
        PromptRefused: if it is not.
    """
    if body.dimensions not in (None, DIMENSIONS):
        raise PromptRefused(f"dimensions: {NAME} has {DIMENSIONS}, and no other number; leave it out.")
    texts: list[str] = []
    for text in [body.input] if isinstance(body.input, str) else body.input:
        if not isinstance(text, str):
            raise PromptRefused(
                "input: token ids are those of another tokenizer; send texts. LangChain does with "
                "check_embedding_ctx_length=False."
            )
        texts.append(text)
    most = app.config.serving.max_prompt_chars
    for number, text in enumerate(texts):
        if len(text) > most:
            raise PromptRefused(f"input.{number} has {len(text)} characters; at most {most} are taken.")
        if not text.strip():
            raise PromptRefused(f"input.{number} is empty.")
    return texts
