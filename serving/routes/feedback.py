"""`POST /feedback`: an opinion about an answer, stored as an event. It later improves the model."""

from __future__ import annotations

import logging
from typing import Annotated, Any

from fastapi import APIRouter, Depends

from llmops.access.roles import Key
from llmops.events.datasets import FEEDBACK
from llmops.events.events import emit
from llmops.frame.errors import StateError
from llmops.release import trials
from llmops.scans.pii import redact_texts
from serving.admission.dependencies import AppPartsDep, require_within_limits
from serving.admission.signing import is_request_id, read_mark
from serving.answers.schemas import ConversationDep, FeedbackRequest, FeedbackResponse, Problem
from serving.errors import FeedbackRefused

log = logging.getLogger(__name__)

TEXTS = ("comment", "correction", "question", "answer", "context")

router = APIRouter(tags=["model"])
_problems: dict[int | str, dict[str, Any]] = {n: {"model": Problem} for n in (401, 403, 413, 422, 429, 503)}


@router.post("/feedback", name="feedback", status_code=201, responses=_problems)
def store_feedback(
    body: FeedbackRequest,
    app: AppPartsDep,
    key: Annotated[Key, Depends(require_within_limits("feedback"))],
    conversation: ConversationDep = None,
) -> FeedbackResponse:
    """Store a rating, a comment or a correction. Personal data in its texts is replaced by marks first.

    A key's last rating of a request counts, also in a running trial. A comment or a correction takes no rating back.
    The event has the `http.request.id` of the request.
    """
    if not is_request_id(app.session_secret, body.id):
        raise FeedbackRefused("This is no id of a request that was answered here; send the one in X-Request-ID.")
    counts = int(body.rating == "up"), int(body.rating == "down"), int(bool(body.correction.strip()))
    version = ""
    if mark := read_mark(body.id):
        try:
            version = trials.rate(app.registry, mark, body.id, key.prefix, counts)
        except StateError:  # the event is stored nevertheless
            log.warning("The feedback to request %s does not count in its trial", body.id, exc_info=True)
    texts = {name: text for name in TEXTS if (text := getattr(body, name).strip())}
    redacted = redact_texts(list(texts.values()), app.config.govern.entities)
    fields: dict[str, Any] = {
        "event.action": "feedback",
        "event.outcome": "success",
        "http.request.id": body.id,
        "llmops.key.prefix": key.prefix,
        "user.roles": [key.role],
        **({"gen_ai.conversation.id": conversation} if conversation else {}),
        **({"llmops.model.version": version} if version else {}),
        **({"llmops.feedback.rating": body.rating} if body.rating else {}),
        **{f"llmops.feedback.{name}": one.text for name, one in zip(texts, redacted, strict=True)},
    }
    return FeedbackResponse(event=emit(app.config.events, FEEDBACK, fields))
