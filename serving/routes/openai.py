"""`/v1`: the routes of OpenAI's API that its clients need to chat, to complete texts and to list models."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response

from llmops.access.roles import Key
from llmops.embedding.weights import CREATED, NAME
from serving.admission.dependencies import AppParts, AppPartsDep, limited, provided_side, require
from serving.answers.conversation import turns_of
from serving.answers.grounded import is_grounded, look_up
from serving.answers.noted import note_prompts, note_settings
from serving.answers.openai_answers import respond
from serving.answers.openai_schemas import (
    MOST_ANSWERS,
    ChatRequest,
    Completion,
    CompletionRequest,
    ModelCard,
    ModelList,
    OpenAIProblem,
    OpenAIRequest,
)
from serving.answers.requests import copies, engine_request
from serving.answers.schemas import SideDep
from serving.engines.base import Chat, Prompt, Text, TokenIds
from serving.errors import PromptRefused, VersionNotLoaded

COMPLETION_TOKENS = 16  #: OpenAI's default length of a completion

#: statuses of refusals below `/v1`
PROBLEMS: dict[int | str, dict[str, Any]] = {
    n: {"model": OpenAIProblem} for n in (400, 401, 403, 404, 413, 429, 500, 503, 504, "default")
}
_stream: dict[int | str, dict[str, Any]] = {
    200: {"description": "The answer; with `stream`, as events.", "content": {"text/event-stream": {}}}
}
router = APIRouter(prefix="/v1", tags=["openai"], responses=PROBLEMS)
KeyDep = Annotated[Key, Depends(require("generate"))]
LimitedDep = Annotated[Key, Depends(limited("generate"))]


@router.post("/chat/completions", response_model=Completion, responses=_stream)
async def chat_completions(
    request: Request, app: AppPartsDep, key: LimitedDep, body: ChatRequest, side: SideDep = ""
) -> Response:
    """Go on with a conversation; greedily unless a temperature is given."""
    limits = app.config.serving
    if body.max_tokens and body.max_completion_tokens:
        raise PromptRefused("Give max_completion_tokens or max_tokens, not both: they mean the same.")
    given = body.max_completion_tokens or body.max_tokens
    tokens = given or limits.max_new_tokens
    chat, calls = Chat(turns_of(body.messages), body.shown), body.calls
    likely = (body.top_logprobs or 0) if body.logprobs else None
    note(request, body, tokens, [chat], likely)
    if schema := body.response_format.followed if body.response_format else "":
        request.state.event["gen_ai.output.type"] = "json"
    if calls:
        for name, value in (("response_format", schema), ("logprobs", body.logprobs), ("ignore_eos", body.endless)):
            if value:
                raise PromptRefused(f"An answer that may call tools has no {name}: leave one of them out.")
        schema = body.calls_followed
    more: dict[str, Any] = {"schema": schema, "logprobs": likely, "calls": calls, "ignore_eos": body.endless}
    wanted = engine_request(chat, tokens, body, limits, fill=not given, **more)
    side, grounds = await provided_side(app, key, wanted_side(app, body.model, side)), None
    if is_grounded(body.ground, app.config.grounding, _hinders(chat, schema)):
        wanted, grounds = await look_up(request, app, key, side, wanted)
    requests = copies(wanted, body.n or 1)
    return await respond(request, app, body, requests, caller=key.prefix, side=side, chat=True, grounds=grounds)


@router.post("/completions", response_model=Completion, responses=_stream)
async def completions(
    request: Request, app: AppPartsDep, key: LimitedDep, body: CompletionRequest, side: SideDep = ""
) -> Response:
    """Go on with a text as it stands, or with several."""
    limits = app.config.serving
    tokens = body.max_tokens or min(COMPLETION_TOKENS, limits.max_new_tokens)
    prompts, n = _prompts(body.prompt), body.n or 1
    note(request, body, tokens, prompts, body.logprobs)
    if len(prompts) * n > MOST_ANSWERS:
        raise PromptRefused(f"{len(prompts) * n} answers are asked for; at most {MOST_ANSWERS} are given at a time.")
    more: dict[str, Any] = {"fill": not body.max_tokens, "logprobs": body.logprobs, "ignore_eos": body.endless}
    wanted = [engine_request(prompt, tokens, body, limits, **more) for prompt in prompts]
    requests = [one for ask in wanted for one in copies(ask, n)]
    side = await provided_side(app, key, wanted_side(app, body.model, side))
    return await respond(request, app, body, requests, caller=key.prefix, side=side, chat=False)


@router.get("/models")
def models(app: AppPartsDep, key: KeyDep) -> ModelList:
    """What can be named in a request: the model, each version of it that is loaded, and the model of embeddings."""
    return ModelList(data=_cards(app))


@router.get("/models/{model}")
def model(app: AppPartsDep, key: KeyDep, model: str) -> ModelCard:
    """One of them."""
    for found in _cards(app):
        if found.id == model:
            return found
    raise VersionNotLoaded(f"There is no model {model!r}; GET /v1/models lists those there are.")


def note(request: Request, body: OpenAIRequest, tokens: int, prompts: list[Prompt], logprobs: int | None) -> None:
    """Note in the request's event what is asked for."""
    more: dict[str, Any] = {"stream": bool(body.stream), "logprobs": logprobs, "ignore_eos": body.endless}
    note_settings(request, body, model=body.model, max_tokens=tokens, n=body.n or 1, **more)
    note_prompts(request, prompts)


def wanted_side(app: AppParts, model: str, side: str) -> str:
    """The side that a request asks for: the version after the colon of its `model` (`name:v3`), else its header's.

    Raises:
        VersionNotLoaded: if `model` is not the name of the model that is served here.
    """
    name, colon, version = model.partition(":")
    if name != app.config.release.name or (colon and not version):
        raise VersionNotLoaded(f"There is no model {model!r}; GET /v1/models lists those there are.")
    return version or side


def _hinders(chat: Chat, schema: str) -> str:
    """What a request for a chat has that does not go with an answer from the documents; empty: nothing."""
    last = chat.messages[-1]
    if last.role != "user" or not last.content.strip():
        return "what follows the last question"
    return "tools and messages about them" if chat.knows_tools else "response_format" if schema else ""


def _prompts(prompt: str | list[int] | list[str] | list[list[int]]) -> list[Prompt]:
    if isinstance(prompt, str) or all(isinstance(part, int) for part in prompt):
        prompt = [prompt]  # type: ignore[assignment]
    return [Text(part) if isinstance(part, str) else TokenIds(tuple(part)) for part in prompt]  # type: ignore[arg-type]


def _cards(app: AppParts) -> list[ModelCard]:
    name, versions = app.config.release.name, [one.version for one in app.models.loaded]
    ids = [(name, version) for version in versions[:1]] + [(f"{name}:{version.name}", version) for version in versions]
    cards = [ModelCard(id=id, created=_seconds(version.created)) for id, version in ids]
    return [*cards, ModelCard(id=NAME, created=CREATED)] if app.embeddings.whole else cards


def _seconds(time: str) -> int:
    try:
        return int(datetime.fromisoformat(time).timestamp())
    except ValueError:
        return 0
