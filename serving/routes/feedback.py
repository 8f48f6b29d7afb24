"""`POST /feedback`: what somebody thinks of an answer, kept as an event from which the model is improved."""

from __future__ import annotations

import asyncio
import logging
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request

from llmops.access.roles import Key
from llmops.errors import StateError
from llmops.monitoring.datasets import FEEDBACK
from llmops.monitoring.events import emit
from llmops.release import trials
from serving.admission.dependencies import AppParts, AppPartsDep, charge, limited
from serving.admission.signing import is_answered, mark_of
from serving.answers.schemas import FeedbackRequest, FeedbackResponse, Problem
from serving.errors import FeedbackRefused

log = logging.getLogger(__name__)

CHARS_PER_TOKEN = 4  #: of feedback, which no tokenizer reads
TEXTS = ("comment", "correction", "question", "answer", "context")

router = APIRouter(tags=["model"])
_problems: dict[int | str, dict[str, Any]] = {n: {"model": Problem} for n in (401, 403, 413, 422, 429, 503)}


@router.post("/feedback", status_code=201, responses=_problems)
async def feedback(
    request: Request, body: FeedbackRequest, app: AppPartsDep, key: Annotated[Key, Depends(limited("feedback"))]
) -> FeedbackResponse:
    """Keep a rating, a comment or a correction of an answer that this key got; marks take the place of personal data.

    A key's last rating of a request counts, in a trial that goes on, too; a comment or a correction takes none back. It
    joins the request's event by `http.request.id`. Texts count as tokens against the key's limits.
    """
    if not is_answered(app.session_secret, body.id, key.prefix):
        raise FeedbackRefused(
            "This is not the id of an answer that this key got here; it is in the answer, and in X-Request-ID."
        )
    given = {name: text for name in TEXTS if (text := getattr(body, name).strip())}
    await charge(request, sum(map(len, given.values())) // CHARS_PER_TOKEN)
    cleaned = await app.redaction.clean(list(given.values()), key.prefix)
    fields: dict[str, Any] = {
        "event.action": "feedback",
        "event.outcome": "success",
        "http.request.id": body.id,
        "llmops.key.prefix": key.prefix,
        "user.roles": [key.role],
        **({"llmops.feedback.rating": body.rating} if body.rating else {}),
        **({"llmops.prompt.digest": app.digests.text(body.question)} if body.question else {}),
        **({"llmops.answer.digest": app.digests.text(body.answer)} if body.answer else {}),
        **{f"llmops.feedback.{name}": text for name, text in zip(given, cleaned, strict=True)},
    }
    return FeedbackResponse(event=await asyncio.to_thread(_keep, app, body, key, fields))


def _keep(app: AppParts, body: FeedbackRequest, key: Key, fields: dict[str, Any]) -> str:
    """Count a rating in its trial, and put the event into the spool; gives its id."""
    said = int(body.rating == "up"), int(body.rating == "down"), int(bool(body.correction.strip()))
    if mark := mark_of(body.id):
        try:
            if version := trials.rate(app.registry, mark, body.id, key.prefix, said):
                fields["llmops.model.version"] = version
        except StateError:  # the event is kept all the same
            log.warning("What was said of %s does not count in its trial", body.id, exc_info=True)
    return emit(app.config.events, FEEDBACK, fields)
