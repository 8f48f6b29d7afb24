"""`POST /feedback`: an opinion about an answer, stored as an event. It later improves the model."""

from __future__ import annotations

import asyncio
import logging
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request

from llmops.access.roles import Key
from llmops.events.datasets import FEEDBACK
from llmops.events.events import emit
from llmops.frame.errors import StateError
from llmops.release import trials
from llmops.scans.pii import redact_texts
from serving.admission.dependencies import AppParts, AppPartsDep, require_within_limits, reserve
from serving.admission.signing import NO_DIGEST, AnswerId, is_digest_of, read_answer_id
from serving.answers.schemas import ConversationDep, FeedbackRequest, FeedbackResponse, Problem
from serving.engines.base import EngineRequest, Text
from serving.errors import FeedbackRefused

log = logging.getLogger(__name__)

TEXTS = ("comment", "correction", "question", "answer", "context")

router = APIRouter(tags=["model"])
_problems: dict[int | str, dict[str, Any]] = {n: {"model": Problem} for n in (401, 403, 413, 422, 429, 503)}


@router.post("/feedback", name="feedback", status_code=201, responses=_problems)
async def store_feedback(
    request: Request,
    body: FeedbackRequest,
    app: AppPartsDep,
    key: Annotated[Key, Depends(require_within_limits("feedback", budgeted=False))],
    conversation: ConversationDep = None,
) -> FeedbackResponse:
    """Store a rating, a comment or a correction. Personal data in its texts is replaced by marks first.

    A key's last rating of a request counts, also in a running trial. A comment or a correction takes no rating back.
    The event has the `http.request.id` of the request. The texts count as tokens of the key, one for each byte.
    """
    answered = _read_id(body, app, key)
    if texts := "".join(getattr(body, name) for name in TEXTS):
        await reserve(request, [EngineRequest(Text(texts), 0)])
    async with app.storing_feedback:
        return await asyncio.to_thread(_store, body, app, key, answered.mark, conversation)


def _read_id(body: FeedbackRequest, app: AppParts, key: Key) -> AnswerId:
    """Return the parts of the answer's id.

    Raises:
        FeedbackRefused: if it is no id of an answer to this key's owner, or question or answer are others.
    """
    answered = read_answer_id(app.session_secret, body.id, key.answered_to)
    if answered is None:
        raise FeedbackRefused("This is no id of an answer to you; send the one in its X-Request-ID.")
    question, answer = body.question.strip(), body.answer.strip()
    if question and answered.question == NO_DIGEST:
        raise FeedbackRefused("This request did not ask one question as text, so its answer cannot be corrected.")
    if question and not is_digest_of(answered.question, app.digests.digest_text(question)):
        raise FeedbackRefused("question: this is not what the request asked; send its prompt or last message.")
    known = answered.answer != NO_DIGEST
    if answer and known and not is_digest_of(answered.answer, app.digests.digest_text(answer)):
        raise FeedbackRefused("answer: this is not what was answered.")
    return answered


def _store(body: FeedbackRequest, app: AppParts, key: Key, mark: str, conversation: str | None) -> FeedbackResponse:
    counts = int(body.rating == "up"), int(body.rating == "down"), int(bool(body.correction.strip()))
    version = ""
    if mark:
        try:
            version = trials.rate(app.registry, mark, body.id, key.answered_to, counts)
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
