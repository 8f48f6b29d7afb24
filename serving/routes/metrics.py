"""`GET /metrics`: figures for Prometheus."""

from __future__ import annotations

from fastapi import APIRouter, Depends, Response
from prometheus_client import CONTENT_TYPE_LATEST

from serving.admission.dependencies import AppPartsDep, require

router = APIRouter(tags=["health"], dependencies=[Depends(require("view_metrics"))])


@router.get("/metrics", response_class=Response, responses={200: {"content": {CONTENT_TYPE_LATEST: {}}}})
async def metrics(app: AppPartsDep) -> Response:
    """Requests, durations, tokens, answers that the guard has cut, and how the engines are doing."""
    return Response(app.metrics.text(), media_type=CONTENT_TYPE_LATEST)
