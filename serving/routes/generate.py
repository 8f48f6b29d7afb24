"""`POST /generate`: a question in, the model's answer out, complete or piece by piece."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response

from llmops.access.roles import Key
from llmops.release.registry.version import Version
from serving.admission.dependencies import AppParts, AppPartsDep, provide_side, require_within_limits, reserve
from serving.answers.delivery import deliver, deliver_whole
from serving.answers.grounded import describe_grounds, find_grounds, stream_ready_answer
from serving.answers.requests import make_engine_request, record_prompts, record_settings
from serving.answers.schemas import (
    MAX_TOKENS,
    ConversationDep,
    GenerateRequest,
    GenerateResponse,
    Problem,
    SideDep,
    Usage,
)
from serving.engines.base import Answer, Chunk, Prompt, Question
from serving.errors import FeaturesDown, PromptRefused
from serving.http.server_sent_events import format_event, start_event_stream

DEFAULT_NEW_TOKENS = 50

router = APIRouter(tags=["model"])
_problems: dict[int | str, dict[str, Any]] = {
    n: {"model": Problem} for n in (401, 403, 404, 413, 422, 429, 500, 503, 504)
}
_stream = {"description": "The answer; with `stream`, as events.", "content": {"text/event-stream": {}}}


@router.post("/generate", response_model=GenerateResponse, responses={200: _stream, **_problems})
async def generate(
    request: Request,
    app: AppPartsDep,
    key: Annotated[Key, Depends(require_within_limits("generate"))],
    side: SideDep = "",
    conversation: ConversationDep = None,
    body: GenerateRequest | None = None,
    prompt: Annotated[str | None, Query(description="The question, when there is no body.")] = None,
    max_length: Annotated[
        int | None, Query(ge=1, le=MAX_TOKENS, description="Longest answer, in tokens; default 50.")
    ] = None,
) -> GenerateResponse | Response:
    """Answer a question, greedily unless a temperature is given: the same question gets the same answer."""
    name, timeout_s = app.config.release.name, app.config.serving.timeout_s
    body = _merge_parameters(body, prompt, max_length)
    limits = app.config.serving
    tokens = body.max_new_tokens or body.max_length or min(DEFAULT_NEW_TOKENS, limits.max_new_tokens)
    record_settings(request, body, model=name, max_tokens=tokens, stream=body.stream, conversation=conversation)
    side = await provide_side(app, key, side)
    engine_prompt = await _read_prompt(body, app, key, side)
    record_prompts(request, [engine_prompt])
    engine_request = make_engine_request(engine_prompt, tokens, body, limits, key.prefix)
    grounds = await find_grounds(request, app, body.ground, engine_request, caller=key.answered_to, side=side)
    if grounds and grounds.ready_answer:
        stream = stream_ready_answer(app, grounds.ready_answer, engine_prompt, key.answered_to, side)
    else:
        engine_request = grounds.add_passages(engine_request) if grounds else engine_request
        await reserve(request, [engine_request])
        stream = app.models.generate(engine_request, caller=key.answered_to, side=side, caller_prompt=engine_prompt)
    request.state.event["llmops.model.version"] = stream.version.name
    described = describe_grounds(app, grounds)

    def render(chunk: Chunk) -> str:
        if not chunk.finish_reason:
            return format_event({"text": chunk.text})
        facts = _make_response(request, name, stream.version, chunk, described).model_dump(exclude={"response"})
        return format_event({"text": chunk.text, **facts})

    if body.stream:
        return await start_event_stream(request, deliver(request, stream, timeout_s), render)
    answer = await deliver_whole(request, stream, timeout_s)
    return _make_response(request, name, stream.version, answer, described)


def _merge_parameters(body: GenerateRequest | None, prompt: str | None, max_length: int | None) -> GenerateRequest:
    if body and (prompt is not None or max_length is not None):
        raise PromptRefused("Send the prompt in a JSON body or as query parameters, not both.")
    body = body or GenerateRequest(prompt=prompt, max_length=max_length)
    if body.max_new_tokens is not None and body.max_length is not None:
        raise PromptRefused("Give max_new_tokens or max_length, not both: they mean the same.")
    if body.input_id is not None and (body.prompt is not None or body.context):
        raise PromptRefused("Give a prompt or an input_id, not both; an input has its own context.")
    return body


async def _read_prompt(body: GenerateRequest, app: AppParts, key: Key, side: str) -> Prompt:
    """Return the caller's question, or the stored prompt of an `input_id`.

    Token ids belong to one version's tokenizer, so they are read again if another version is chosen meanwhile.
    """
    while body.input_id is not None:
        chosen = app.models.choose(key.answered_to, side)
        try:
            tokens = await app.inputs.read(chosen.version, body.input_id)
        except FeaturesDown as error:
            if not side:  # the draw chose the version
                app.models.count_failure(chosen, key.answered_to, error)
            raise
        if app.models.choose(key.answered_to, side).version.name == chosen.version.name:
            return tokens
    if body.prompt is None:
        raise PromptRefused("Give a prompt, or the input_id of an example.")
    return Question(body.prompt, body.context)


def _make_response(
    request: Request, name: str, version: Version, answer: Chunk | Answer, described: dict[str, Any]
) -> GenerateResponse:
    return GenerateResponse(
        response=answer.text,
        id=request.state.id,
        model=name,
        model_version=version.name,
        usage=Usage(input_tokens=answer.input_tokens, output_tokens=answer.output_tokens),
        finish_reason=answer.finish_reason or "stop",
        **described,
    )
