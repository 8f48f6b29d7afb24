"""`POST /feedback`: what somebody thinks of an answer, kept as an event from which the model is improved."""

from __future__ import annotations

import logging
from typing import Annotated, Any

from fastapi import APIRouter, Depends

from llmops.access.roles import Key
from llmops.errors import StateError
from llmops.monitoring.datasets import FEEDBACK
from llmops.monitoring.events import emit
from llmops.release import trials
from llmops.scans.pii import redact_all
from serving.admission.dependencies import AppPartsDep, limited
from serving.admission.signing import is_request_id, mark_of
from serving.answers.schemas import FeedbackRequest, FeedbackResponse, Problem
from serving.errors import FeedbackRefused

log = logging.getLogger(__name__)

TEXTS = ("comment", "correction", "question", "answer", "context")

router = APIRouter(tags=["model"])
_problems: dict[int | str, dict[str, Any]] = {n: {"model": Problem} for n in (401, 403, 413, 422, 429, 503)}


@router.post("/feedback", status_code=201, responses=_problems)
def feedback(
    body: FeedbackRequest, app: AppPartsDep, key: Annotated[Key, Depends(limited("feedback"))]
) -> FeedbackResponse:
    """Keep a rating, a comment or a correction; personal data in its texts is replaced by marks first.

    A key's last rating of a request counts, in a trial that goes on, too; a comment or a correction takes none back. It
    joins the request's event by `http.request.id`.
    """
    if not is_request_id(app.session_secret, body.id):
        raise FeedbackRefused("This is not the id of a request that was answered here; it is in X-Request-ID.")
    said = int(body.rating == "up"), int(body.rating == "down"), int(bool(body.correction.strip()))
    version = ""
    if mark := mark_of(body.id):
        try:
            version = trials.rate(app.registry, mark, body.id, key.prefix, said)
        except StateError:  # the event is kept all the same
            log.warning("What was said of %s does not count in its trial", body.id, exc_info=True)
    given = {name: text for name in TEXTS if (text := getattr(body, name).strip())}
    cleaned = redact_all(list(given.values()), app.config.govern.entities)
    fields: dict[str, Any] = {
        "event.action": "feedback",
        "event.outcome": "success",
        "http.request.id": body.id,
        "llmops.key.prefix": key.prefix,
        "user.roles": [key.role],
        **({"llmops.model.version": version} if version else {}),
        **({"llmops.feedback.rating": body.rating} if body.rating else {}),
        **{f"llmops.feedback.{name}": found.text for name, found in zip(given, cleaned, strict=True)},
    }
    return FeedbackResponse(event=emit(app.config.events, FEEDBACK, fields))
