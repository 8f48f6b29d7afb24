"""`/admin/review`: users' corrections that wait for a person, to accept, edit or refuse. Each decision is audited.

No page of another site can decide in the name of a browser's session: see `dependencies.require`.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from llmops.access.roles import PREFIX, Key
from llmops.data.feedback import review, rows
from llmops.state.database import database_of
from serving.admission.dependencies import AppPartsDep, require
from serving.answers.schemas import Problem, ValidStr
from serving.http.templates import render_page

RECENT = 50  #: shown decisions

router = APIRouter(
    prefix="/admin/review",
    tags=["admin"],
    responses={n: {"model": Problem} for n in (401, 403, 404, 422, 503)},
)
KeyDep = Annotated[Key, Depends(require("review_feedback"))]
Id = Annotated[str, Path(min_length=6, max_length=100, description="The correction's id, as listed by `GET`.")]


class ReviewRequest(BaseModel):
    """The decision on a correction."""

    model_config = ConfigDict(extra="forbid")

    decision: review.Decision
    text: ValidStr = Field("", max_length=rows.MAX_CORRECTION_CHARS, description="With `edit`: the answer to train on.")
    why: ValidStr = Field("", max_length=500, description="The reason, for later readers.")


class RefuseAllRequest(BaseModel):
    """The key whose corrections are refused."""

    model_config = ConfigDict(extra="forbid")

    key: str = Field(pattern=PREFIX, description="The 8 hex digits after `llmops_`, or a person's `oidc-…`.")
    why: ValidStr = Field("", max_length=500, description="The reason, for later readers.")


@router.get("", include_in_schema=False)
async def show_review(request: Request, key: KeyDep) -> Response:
    """Show the page; its script fetches `/admin/review/data`."""
    return render_page(request, "review.html", key=key)


@router.get("/data", name="data")
def list_corrections(app: AppPartsDep, key: KeyDep) -> dict[str, Any]:
    """List the open corrections, most frequent first, the latest decisions, and the number in each state."""
    review.refresh(app.config)
    database, conversations = database_of(app.config), review.find_conversations(app.config)
    decided = review.list_entries(database, ("accepted", "refused"))
    decided = sorted(decided, key=lambda entry: str(entry["decided"]), reverse=True)[:RECENT]
    waiting = review.list_entries(database)
    for entry in (*waiting, *decided):
        entry["conversation"] = conversations.get(entry["id"], "")
    return {
        "open": waiting,
        "decided": decided,
        "counts": rows.count_states(database),
        "agreeing": app.config.improve.agreeing,
    }


@router.post("")
def refuse_all(body: RefuseAllRequest, app: AppPartsDep, key: KeyDep) -> dict[str, Any]:
    """Refuse all corrections of a key that wait."""
    who = {"llmops.key.prefix": key.prefix, "user.roles": [key.role]}
    return {"refused": review.refuse_all(app.config, body.key, by=f"key {key.prefix}", why=body.why, who=who)}


@router.post("/{id}")
def decide(id: Id, body: ReviewRequest, app: AppPartsDep, key: KeyDep) -> dict[str, Any]:
    """Accept, edit or refuse a correction. The decision counts from the next data interval on."""
    who = {"llmops.key.prefix": key.prefix, "user.roles": [key.role]}
    by = f"key {key.prefix}"
    entry = review.decide(app.config, id, body.decision, who=who, by=by, text=body.text, why=body.why)
    return {"id": entry.id, "state": entry.state, "text": entry.text, "decided": entry.decided}
