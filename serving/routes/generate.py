"""`POST /generate`: a question in, the champion's answer out."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request

from llmops.config import Serving
from llmops.governance.access import Key
from serving.deps import PartsDep, require
from serving.engines.base import Ask
from serving.errors import PromptRefused
from serving.schemas import GenerateRequest, GenerateResponse, Problem, Usage

DEFAULT_NEW_TOKENS = 50

router = APIRouter(tags=["model"])
_problems: dict[int | str, dict[str, Any]] = {n: {"model": Problem} for n in (401, 403, 413, 422, 429, 503)}


@router.post("/generate", responses=_problems)
async def generate(
    request: Request,
    app: PartsDep,
    key: Annotated[Key, Depends(require("generate"))],
    body: GenerateRequest | None = None,
    prompt: Annotated[str | None, Query(description="The question, when there is no body.")] = None,
    max_length: Annotated[int | None, Query(ge=1, description="Longest answer, in tokens; default 50.")] = None,
) -> GenerateResponse:
    """Answer a question with the champion, greedily: the same question gets the same answer."""
    ask = _ask(body, prompt, max_length, app.config.serving)
    name = app.config.release.name
    event = request.state.event
    event.update({"gen_ai.operation.name": "text_completion", "gen_ai.request.model": name})
    event["gen_ai.request.max_tokens"] = ask.max_new_tokens
    version, future = app.models.generate(ask)
    event["llmops.model.version"] = version.name
    answer = await asyncio.wrap_future(future)
    event.update(
        {
            "gen_ai.usage.input_tokens": answer.input_tokens,
            "gen_ai.usage.output_tokens": answer.output_tokens,
            "gen_ai.response.finish_reasons": [answer.finish_reason],
        }
    )
    return GenerateResponse(
        response=answer.text,
        id=request.state.id,
        model=name,
        model_version=version.name,
        usage=Usage(input_tokens=answer.input_tokens, output_tokens=answer.output_tokens),
        finish_reason=answer.finish_reason,
    )


def _ask(body: GenerateRequest | None, prompt: str | None, max_length: int | None, limits: Serving) -> Ask:
    """What is asked for, from the body or the query parameters.

    Raises:
        PromptRefused: if it is empty, too long, or said twice.
    """
    if body and (prompt is not None or max_length is not None):
        raise PromptRefused("Send the prompt in a JSON body or as query parameters, not both.")
    if body is None:
        body = GenerateRequest(prompt=prompt or "", max_length=max_length)
    if body.max_new_tokens is not None and body.max_length is not None:
        raise PromptRefused("Give max_new_tokens or max_length, not both: they mean the same.")
    if not body.prompt.strip():
        raise PromptRefused("The prompt is empty.")
    for what, text in (("prompt", body.prompt), ("context", body.context)):
        if len(text) > limits.max_prompt_chars:
            raise PromptRefused(f"The {what} has {len(text)} characters; at most {limits.max_prompt_chars} are taken.")
    tokens = body.max_new_tokens or body.max_length or min(DEFAULT_NEW_TOKENS, limits.max_new_tokens)
    if tokens > limits.max_new_tokens:
        raise PromptRefused(f"{tokens} new tokens are asked for; at most {limits.max_new_tokens} are given.")
    return Ask(body.prompt, body.context, tokens)
