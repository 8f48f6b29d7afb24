"""`/v1`: the routes of OpenAI's API for chats, completions, embeddings and the list of models."""

from __future__ import annotations

import base64
from dataclasses import replace
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response

from llmops.access.roles import Key
from llmops.data.retrieval.minilm import MAX_TOKENS, MODEL_NAME
from serving.admission.dependencies import AppParts, AppPartsDep, provide_side, require, require_within_limits, reserve
from serving.answers.grounded import find_grounds, note_no_documents
from serving.answers.openai_answers import respond
from serving.answers.openai_bodies import (
    Completion,
    Embedding,
    EmbeddingList,
    EmbeddingUsage,
    ModelCard,
    ModelList,
    OpenAIProblem,
)
from serving.answers.openai_schemas import (
    MAX_ANSWERS,
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    OpenAIRequest,
)
from serving.answers.requests import make_engine_request, record_prompts, record_settings, repeat_request
from serving.answers.schemas import ConversationDep, Sampling, SideDep
from serving.engines.base import Chat, Prompt, Text, TokenIds
from serving.errors import PromptRefused, VersionNotLoaded

COMPLETION_TOKENS = 16  #: OpenAI's default length of a completion

_problems: dict[int | str, dict[str, Any]] = {
    n: {"model": OpenAIProblem} for n in (400, 401, 403, 404, 413, 429, 500, 503, 504, "default")
}
_stream: dict[int | str, dict[str, Any]] = {
    200: {"description": "The answer; with `stream`, as events.", "content": {"text/event-stream": {}}}
}
router = APIRouter(prefix="/v1", tags=["openai"], responses=_problems)
KeyDep = Annotated[Key, Depends(require("generate"))]
LimitedDep = Annotated[Key, Depends(require_within_limits("generate"))]


@router.post("/chat/completions", name="chat_completions", response_model=Completion, responses=_stream)
async def create_chat_completion(
    request: Request,
    app: AppPartsDep,
    key: LimitedDep,
    body: ChatRequest,
    side: SideDep = "",
    conversation: ConversationDep = None,
) -> Completion | Response:
    """Continue a conversation, greedily unless a temperature is given."""
    limits = app.config.serving
    if body.max_tokens and body.max_completion_tokens:
        raise PromptRefused("Give max_completion_tokens or max_tokens, not both: they mean the same.")
    tokens = body.max_completion_tokens or body.max_tokens or limits.max_new_tokens
    chat, schema = Chat(body.turns), body.schema_text
    record_request(request, body, tokens, [chat], conversation)
    if schema:
        request.state.event["llmops.schema.digest"] = app.digests.digest_text(schema)
        if not body.functions:
            request.state.event["gen_ai.output.type"] = "json"
    if schema and body.ground:
        raise PromptRefused("An answer from the documents is text: leave ground out, or response_format and tools.")
    note_no_documents(request, app)
    plain = make_engine_request(chat, tokens, body, limits, key.prefix, schema)
    plain = replace(plain, logprobs=bool(body.logprobs))
    requests = repeat_request(plain, body.n or 1)
    side = await provide_side(app, key, choose_side(app, body.model, side))
    chosen = {"caller": key.answered_to, "side": side}
    grounds = None if schema else await find_grounds(request, app, body.ground, requests[0], **chosen)
    return await respond(request, app, body, requests, **chosen, chat=True, grounds=grounds)


@router.post("/completions", name="completions", response_model=Completion, responses=_stream)
async def create_completion(
    request: Request,
    app: AppPartsDep,
    key: LimitedDep,
    body: CompletionRequest,
    side: SideDep = "",
    conversation: ConversationDep = None,
) -> Completion | Response:
    """Continue one text or several, without a prompt format."""
    limits = app.config.serving
    tokens = body.max_tokens or min(COMPLETION_TOKENS, limits.max_new_tokens)
    prompts, n = _split_prompts(body.prompt), body.n or 1
    record_request(request, body, tokens, prompts, conversation)
    note_no_documents(request, app)
    if len(prompts) * n > MAX_ANSWERS:
        raise PromptRefused(f"{len(prompts) * n} answers are requested; at most {MAX_ANSWERS} are allowed at a time.")
    single = [make_engine_request(prompt, tokens, body, limits, key.prefix) for prompt in prompts]
    requests = [copy for engine_request in single for copy in repeat_request(engine_request, n)]
    side = await provide_side(app, key, choose_side(app, body.model, side))
    return await respond(request, app, body, requests, caller=key.answered_to, side=side, chat=False)


@router.post("/embeddings", name="embeddings")
async def create_embeddings(
    request: Request, app: AppPartsDep, key: LimitedDep, body: EmbeddingRequest
) -> EmbeddingList:
    """Return the vectors of texts by the sentence model that searches the documents."""
    texts, event = [body.input] if isinstance(body.input, str) else body.input, request.state.event
    event["gen_ai.request.model"] = body.model
    record_prompts(request, [Text(text) for text in texts])
    if body.model != MODEL_NAME:
        raise VersionNotLoaded(f"There is no embedding model {body.model!r}; only {MODEL_NAME} can be served.")
    asked = [make_engine_request(Text(text), 0, Sampling(), app.config.serving, key.prefix) for text in texts]
    # A token has at least one character, so the first MAX_TOKENS characters bound the tokens that the model reads.
    await reserve(
        request, [replace(one, prompt=Text(text[:MAX_TOKENS])) for one, text in zip(asked, texts, strict=True)]
    )
    vectors, tokens = await app.documents.embed(texts)
    event["gen_ai.usage.input_tokens"] = tokens
    coded = body.encoding_format == "base64"
    shown = (base64.b64encode(one.astype("<f4").tobytes()).decode() if coded else one.tolist() for one in vectors)
    data = [Embedding(index=number, embedding=one) for number, one in enumerate(shown)]
    return EmbeddingList(data=data, model=MODEL_NAME, usage=EmbeddingUsage(prompt_tokens=tokens, total_tokens=tokens))


@router.get("/models", name="models")
def list_models(app: AppPartsDep, key: KeyDep) -> ModelList:
    """List the models that can be named in a request: the model, its aliases, and each loaded version of it."""
    return ModelList(data=_list_cards(app))


@router.get("/models/{model}", name="model")
def get_model(app: AppPartsDep, key: KeyDep, model: str) -> ModelCard:
    """Return one model of the list."""
    for card in _list_cards(app):
        if card.id == model:
            return card
    raise VersionNotLoaded(f"There is no model {model!r}; GET /v1/models lists those there are.")


def record_request(
    request: Request, body: OpenAIRequest, tokens: int, prompts: list[Prompt], conversation: str | None
) -> None:
    """Put settings and prompts into the request's event. The conversation's id in the header comes first."""
    record_settings(
        request,
        body,
        model=body.model,
        max_tokens=tokens,
        n=body.n or 1,
        stream=bool(body.stream),
        conversation=conversation or body.conversation,
    )
    record_prompts(request, prompts)


def choose_side(app: AppParts, model: str, side: str) -> str:
    """Return the side that is to answer: the version in the request's `model` (`name:v3`), else the side in its header.

    A side is `champion`, `canary` or a version; if it is empty, the owner of the caller's key decides.

    Raises:
        VersionNotLoaded: if `model` is not the name of the model that is served here.
    """
    name, colon, version = model.partition(":")
    if name != app.config.release.name or (colon and not version):
        raise VersionNotLoaded(f"There is no model {model!r}; GET /v1/models lists those there are.")
    return version or side


def _split_prompts(prompt: str | list[int] | list[str] | list[list[int]]) -> list[Prompt]:
    if isinstance(prompt, str) or all(isinstance(part, int) for part in prompt):
        prompt = [prompt]  # type: ignore[assignment]
    return [Text(part) if isinstance(part, str) else TokenIds(tuple(part)) for part in prompt]  # type: ignore[arg-type]


def _list_cards(app: AppParts) -> list[ModelCard]:
    name, loaded = app.config.release.name, app.models.loaded
    sides = [(f"{name}:{app.models.get_side(one)}", one.version) for one in loaded]
    ids = [(name, one.version) for one in loaded[:1]]
    ids += sides + [(f"{name}:{one.version.name}", one.version) for one in loaded]
    return [ModelCard(id=id, created=_parse_seconds(version.created)) for id, version in ids]


def _parse_seconds(time: str) -> int:
    try:
        return int(datetime.fromisoformat(time).timestamp())
    except ValueError:
        return 0
