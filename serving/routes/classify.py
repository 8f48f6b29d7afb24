"""`POST /classify`: texts in, their labels out, each with its probability."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request

from llmops.access.roles import Key
from serving.admission.dependencies import AppParts, AppPartsDep, provide_side, require_within_limits, reserve
from serving.answers.delivery import deliver_whole, unite
from serving.answers.requests import make_engine_request, record_prompts, record_settings
from serving.answers.schemas import (
    ClassifiedText,
    ClassifyRequest,
    ClassifyResponse,
    LabelProbability,
    Problem,
    Sampling,
    SideDep,
    Usage,
)
from serving.engines.base import Answer, Question
from serving.engines.classifier import ClassifierEngine
from serving.errors import NotClassifier
from serving.models.stream import GuardedStream

router = APIRouter(tags=["model"])
_problems: dict[int | str, dict[str, Any]] = {
    n: {"model": Problem} for n in (401, 403, 404, 409, 413, 422, 429, 500, 503, 504)
}


@router.post("/classify", responses=_problems)
async def classify(
    request: Request,
    app: AppPartsDep,
    key: Annotated[Key, Depends(require_within_limits("generate"))],
    body: ClassifyRequest,
    side: SideDep = "",
) -> ClassifyResponse:
    """Give each text one of the model's labels, or none if no label is sure enough."""
    name, limits = app.config.release.name, app.config.serving
    texts = [body.text] if isinstance(body.text, str) else body.text
    questions = [Question(text) for text in texts]
    record_settings(request, Sampling(), model=name, max_tokens=1, n=len(texts))
    record_prompts(request, questions)
    side = await provide_side(app, key, side)
    requests = [
        replace(make_engine_request(question, 1, Sampling(), limits, key.prefix), logprobs=True)
        for question in questions
    ]
    await reserve(request, requests)
    side = _find_classifying_side(app, key.answered_to, side)
    streams = list[GuardedStream]()
    try:
        for one in requests:
            streams.append(app.models.generate(one, caller=key.answered_to, side=side))
        streams = await unite(request, streams, limits.timeout_s)
        request.state.event["llmops.model.version"] = streams[0].version.name
        answers = [await deliver_whole(request, stream, limits.timeout_s) for stream in streams]
    finally:
        for stream in streams:  # so that the others are not computed after an error
            stream.cancel()
    return ClassifyResponse(
        results=[_make_result(answer, body.top_k) for answer in answers],
        id=request.state.id,
        model=name,
        model_version=streams[0].version.name,
        usage=Usage(
            input_tokens=sum(answer.input_tokens for answer in answers),
            output_tokens=sum(answer.output_tokens for answer in answers),
        ),
    )


def _find_classifying_side(app: AppParts, caller: str, side: str) -> str:
    """Return the side of a classifier that answers the caller, see `Models.choose`.

    In place of a canary that is a language model the champion answers, and the trial counts a failure. A canary that is
    the only classifier counts in no trial here, because no champion could answer in its place.

    Raises:
        NotClassifier: if a language model has to answer.
    """
    chosen, champion = app.models.choose(caller, side), app.models.champion
    classifies = isinstance(chosen.engine, ClassifierEngine)
    if side or champion is None or chosen is champion:
        if not classifies:
            raise NotClassifier(chosen.version.name)
        return side
    if isinstance(champion.engine, ClassifierEngine):
        if classifies:
            return ""
        app.models.count_failure(chosen, caller, RuntimeError(f"{chosen.version.name} gives no labels."))
        return "champion"
    if classifies:
        return "canary"
    raise NotClassifier(chosen.version.name)


def _make_result(answer: Answer, top_k: int) -> ClassifiedText:
    labels = [LabelProbability(label=text, probability=round(math.exp(log), 6)) for text, log in answer.logprobs]
    return ClassifiedText(
        label=answer.text or None,
        probability=labels[0].probability,
        labels=labels[:top_k],
        truncated=answer.finish_reason == "length",
    )
