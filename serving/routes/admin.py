"""`/admin`: which versions there are, which ones answer, and changes of both. Each change is an event with the key."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends

from llmops.access.roles import Key
from llmops.release import rollout
from serving.admission.dependencies import AppPartsDep, require
from serving.answers.schemas import CanaryRequest, PromoteRequest

AdminDep = Annotated[Key, Depends(require("manage_models"))]

RECENT = 50  #: decisions that are shown

router = APIRouter(prefix="/admin", tags=["admin"])


@router.get("/models", dependencies=[Depends(require("view_models"))])
def models(app: AppPartsDep) -> dict[str, Any]:
    """All versions, the aliases, the version that answers now, how a canary does, over all replicas, and the latest
    decisions."""
    champion, reasons = app.models.champion, app.registry.overrides()
    versions = [
        {
            "name": v.name,
            "status": v.status,
            "base_model": v.base_model,
            "override": reasons.get(v.name, ""),
            "removed": v.removed,
        }
        for v in app.registry.versions()
    ]
    return {
        "model": app.config.release.name,
        "aliases": app.registry.aliases(),
        "serving": champion.version.name if champion else None,
        "detail": app.models.cause(),
        "canary": rollout.state(app.registry),
        "versions": versions,
        "decisions": app.registry.decisions()[-RECENT:],
    }


@router.post("/promote")
def promote(body: PromoteRequest, app: AppPartsDep, key: AdminDep) -> dict[str, Any]:
    """Make a version the champion; it answers once it is loaded. A canary's trial is over."""
    by = _by(key, "promote")
    rollout.promote(app.registry, app.config.events, body.version, override=body.override, **by)
    return {"aliases": app.registry.aliases()}


@router.post("/rollback")
def rollback(app: AppPartsDep, key: AdminDep) -> dict[str, Any]:
    """Make the previous champion the champion again. A canary's trial is over."""
    rollout.rollback(app.registry, app.config.events, **_by(key, "rollback"))
    return {"aliases": app.registry.aliases()}


@router.post("/canary")
def canary(body: CanaryRequest, app: AppPartsDep, key: AdminDep) -> dict[str, Any]:
    """Let a version answer a share of the callers, or end that. It is pulled by itself at a regression."""
    decision = None
    if body.stop:
        rollout.stop(app.registry, app.config.events, **_by(key, "canary"))
    elif body.conclude:
        going, by = rollout.going_on(app.registry, "canary").started, f"key {key.prefix}"
        rules = rollout.rules_of(app.config, app.registry, going)
        decision = rollout.conclude(app.registry, app.config.events, going, rules, by=by)
    else:
        asked = {**_by(key, "canary"), "override": body.override, "callers": app.config.release.canary_callers}
        rollout.start(app.registry, app.config.events, body.version, body.share, **asked)
    return {"aliases": app.registry.aliases(), "canary": rollout.state(app.registry), "decision": decision}


def _by(key: Key, route: str) -> dict[str, Any]:
    who = {"llmops.key.prefix": key.prefix, "user.roles": [key.role]}
    return {"by": f"key {key.prefix}", "why": f"asked for by POST /admin/{route}", "who": who}
