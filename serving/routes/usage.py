"""`/usage`: what keys have used in a month, as JSON or CSV."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Response

from llmops.access.roles import Key
from llmops.access.usage import MonthUsage, format_csv, format_month, parse_month, read_usage
from llmops.state.database import database_of
from serving.admission.dependencies import AppPartsDep, require_within_limits
from serving.answers.schemas import Problem

_csv: dict[int | str, dict[str, Any]] = {
    200: {"description": "The usage; with `format=csv`, its days as CSV.", "content": {"text/csv": {}}}
}
router = APIRouter(tags=["usage"], responses={n: {"model": Problem} for n in (400, 401, 403, 422, 429, 503)})


@router.get("/usage", response_model=MonthUsage, responses=_csv)
async def get_usage(
    app: AppPartsDep,
    key: Annotated[Key, Depends(require_within_limits("generate", budgeted=False))],
    month: Annotated[
        str | None, Query(description="YYYY-MM, in UTC; default: this month.", examples=["2026-01"])
    ] = None,
    format: Literal["json", "csv"] = "json",
) -> MonthUsage | Response:
    """Return requests and tokens of a month by key, day and model.

    Whoever may see the dashboard sees all keys, others their own. The requests of the last seconds may be missing.
    """
    chosen = format_month(datetime.now(UTC)) if month is None else parse_month(month)
    prefix = "" if key.allows("view_dashboard") else key.prefix
    found = await asyncio.to_thread(read_usage, database_of(app.config), chosen, prefix)
    if format == "csv":
        name = f'attachment; filename="usage-{chosen}.csv"'
        return Response(format_csv(found.days), media_type="text/csv", headers={"Content-Disposition": name})
    return found
