"""`GET /healthz`: the process lives. `GET /readyz`: it can answer. `GET /metrics`: metrics for Prometheus."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST

from llmops.access.keys import STALE_S
from serving.admission.dependencies import AppPartsDep, allow_anyone, require

router = APIRouter(tags=["health"])


@router.get("/healthz", name="healthz", dependencies=[Depends(allow_anyone)])
async def check_liveness() -> dict[str, str]:
    """Answer 200 as long as the process can answer."""
    return {"status": "alive"}


@router.get("/readyz", name="readyz", dependencies=[Depends(allow_anyone)])
async def check_readiness(request: Request, app: AppPartsDep, response: Response, model: bool = True) -> dict[str, Any]:
    """Answer 200 with the loaded version, else 503. `detail` has the reason, or why a newer version is not loaded.

    A database that cannot be asked makes the app unready after `STALE_S`, when no key is known any more. With
    `model=false` the app is also ready while no model is loaded, as before the first release.
    """
    champion, draining = app.models.champion, request.app.state.draining
    ready = app.models.database_lost_s <= STALE_S and not draining
    ready = ready and (not model or (champion is not None and champion.alive))
    if not ready:
        response.status_code = 503
    return {
        "status": "ready" if ready else "not ready",
        "model": app.config.release.name,
        "model_version": champion.version.name if champion else None,
        "detail": "The app is being stopped." if draining else app.models.explain(),
    }


@router.get(
    "/metrics",
    name="metrics",
    dependencies=[Depends(require("view_metrics"))],
    response_class=Response,
    responses={200: {"content": {CONTENT_TYPE_LATEST: {}}}},
)
async def export_metrics(app: AppPartsDep) -> Response:
    """Return requests, durations, tokens, answers cut by the guard, and the state of the engines."""
    return Response(app.metrics.export(), media_type=CONTENT_TYPE_LATEST)
