"""`GET /healthz`: the process lives. `GET /readyz`: a model is loaded."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends, Request, Response

from serving.admission.dependencies import AppPartsDep, public

router = APIRouter(tags=["health"], dependencies=[Depends(public)])


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """200 as long as the process answers at all."""
    return {"status": "alive"}


@router.get("/readyz")
async def readyz(request: Request, app: AppPartsDep, response: Response) -> dict[str, Any]:
    """200 with the version that answers, else 503; `detail` says why, or what is wrong with a newer version.

    `index` is that of the documents which answers may rest on, `index_detail` why there is none, or no newer one.
    """
    champion, draining = app.models.champion, request.app.state.draining
    documents = app.documents
    ready = champion is not None and champion.alive and not draining and not documents.opening
    if not ready:
        response.status_code = 503
    return {
        "status": "ready" if ready else "not ready",
        "model": app.config.release.name,
        "model_version": champion.version.name if champion else None,
        "detail": "It is being stopped." if draining else app.models.reason(),
        "index": documents.index or None,
        "index_detail": documents.reason(),
    }
