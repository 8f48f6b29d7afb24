"""`/admin`: which versions there are, and which one answers. Each change is an event that names the key."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends

from llmops.governance.access import Key
from llmops.monitoring.events import emit
from serving.deps import Parts, PartsDep, require
from serving.schemas import PromoteRequest

CHANGES = "llmops.admin"  #: dataset of the events about changes made here

router = APIRouter(prefix="/admin", tags=["admin"])


@router.get("/models", dependencies=[Depends(require("view_models"))])
def models(app: PartsDep) -> dict[str, Any]:
    """All versions, the aliases, and the version that answers now."""
    current = app.models.current
    return {
        "model": app.config.release.name,
        "aliases": app.registry.aliases(),
        "serving": current.version.name if current else None,
        "detail": app.models.cause(),
        "versions": [{"name": v.name, "status": v.status, "base_model": v.base_model} for v in app.registry.versions()],
    }


@router.post("/promote")
def promote(
    body: PromoteRequest, app: PartsDep, key: Annotated[Key, Depends(require("manage_models"))]
) -> dict[str, Any]:
    """Make a version the champion; it answers once it is loaded."""
    app.registry.promote(body.version, by=f"key {key.prefix}", why="asked for by POST /admin/promote")
    return _changed(app, key, "promote")


@router.post("/rollback")
def rollback(app: PartsDep, key: Annotated[Key, Depends(require("manage_models"))]) -> dict[str, Any]:
    """Make the previous champion the champion again."""
    app.registry.rollback(by=f"key {key.prefix}", why="asked for by POST /admin/rollback")
    return _changed(app, key, "rollback")


def _changed(app: Parts, key: Key, action: str) -> dict[str, Any]:
    aliases = app.registry.aliases()
    fields = {"event.action": action, "event.outcome": "success", "llmops.aliases": aliases}
    emit(app.config.events, CHANGES, {**fields, "llmops.key.prefix": key.prefix, "user.roles": [key.role]})
    return {"aliases": aliases}
