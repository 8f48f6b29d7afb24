"""The pages: playground, dashboard and its stages, drift, sign-in, and API docs that need no network."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Form, HTTPException, Request, Response
from fastapi.responses import RedirectResponse

from llmops.access.roles import Key
from llmops.errors import AccessError, RegistryError, StateError
from llmops.monitoring.reader import Reader
from llmops.release import rollout
from serving.admission.dependencies import COOKIE, AppParts, AppPartsDep, public, require, session_cookie
from serving.admission.signing import SESSION_S
from serving.errors import EventsUnreadable
from serving.http.templates import page, sign_in_page
from serving.observe.dashboard import Span, dashboard_figures, stage_figures
from serving.observe.drift import drift_figures

RECENT = 8  #: changes of aliases that are shown

router = APIRouter(include_in_schema=False)


@router.get("/", dependencies=[Depends(public)])
async def playground(request: Request, app: AppPartsDep) -> Response:
    """Show the page to ask the model; it asks for a key itself, and keeps it in the browser's tab only."""
    monitoring = app.config.monitoring
    kept = monitoring.keep_text_days if monitoring.keep_text else 0
    return page(request, "playground.html", limits=app.config.serving, kept_days=kept)


@router.get("/dashboard")
async def dashboard(request: Request, key: Annotated[Key, Depends(require("view_dashboard"))]) -> Response:
    """Show the monitoring page; its script fetches `/dashboard/data`."""
    return page(request, "dashboard.html", key=key)


@router.get("/dashboard/data", dependencies=[Depends(require("view_dashboard"))])
def dashboard_data(app: AppPartsDep, span: Span = "1h") -> dict[str, Any]:
    """Return the figures of the dashboard and what is being served."""
    champion = app.models.champion
    serving = {
        "version": champion.version.name if champion else None,
        "detail": app.models.cause(),
        "canary": _canary(app),
        "changes": _changes(app),
    }
    objectives = app.config.monitoring.model_dump(include={"latency_p95_ms", "error_rate"})
    figures = dashboard_figures(_reader(app), span, app.config.alerts.drift_windows)
    return {**figures, "serving": serving, "objectives": objectives}


@router.get("/dashboard/stages/{stage}")
def stage_page(
    request: Request, app: AppPartsDep, stage: str, key: Annotated[Key, Depends(require("view_dashboard"))]
) -> Response:
    """Show the page of a stage: its figures, the change to the run before, and its latest runs."""
    found = stage_figures(_reader(app), stage, datetime.now(UTC))
    if found is None:
        raise HTTPException(404, f"No stage {stage!r} has run; /dashboard lists those that have.")
    return page(request, "stage.html", key=key, **found)


@router.get("/drift")
async def drift(request: Request, key: Annotated[Key, Depends(require("view_dashboard"))]) -> Response:
    """Show the page of drift; its script fetches `/drift/data`."""
    return page(request, "drift.html", key=key)


@router.get("/drift/data", dependencies=[Depends(require("view_dashboard"))])
def drift_data(app: AppPartsDep) -> dict[str, Any]:
    """Return the differences of the last window of requests that was judged."""
    return drift_figures(_reader(app), app.config.alerts.drift_windows)


@router.post("/signin", dependencies=[Depends(public)])
async def signin(
    request: Request, app: AppPartsDep, api_key: Annotated[str, Form()], to: Annotated[str, Form()] = "/dashboard"
) -> Response:
    """Exchange an API key for a session of the browser, and go on to the page that was asked for."""
    try:
        cookie = await session_cookie(request, app, api_key)
    except AccessError as error:
        return sign_in_page(request, 401, str(error), to)
    answer = RedirectResponse(to if _local(to) else "/dashboard", status_code=303)
    secure = request.url.scheme == "https"
    answer.set_cookie(COOKIE, cookie, max_age=SESSION_S, httponly=True, samesite="strict", secure=secure)
    return answer


@router.post("/signout", dependencies=[Depends(public)])
async def signout() -> Response:
    """End the session of the browser."""
    answer = RedirectResponse("/dashboard", status_code=303)
    answer.delete_cookie(COOKIE, httponly=True, samesite="strict")
    return answer


@router.get("/docs", dependencies=[Depends(public)])
async def docs(request: Request) -> Response:
    """Show Swagger UI, from files that came with the package."""
    return page(request, "docs.html")


@router.get("/openapi.json", dependencies=[Depends(public)])
async def openapi(request: Request) -> dict[str, Any]:
    """Return the API's description."""
    description: dict[str, Any] = request.app.openapi()
    return description


def _reader(app: AppParts) -> Reader:
    if not app.reader:
        raise EventsUnreadable("Events go to no sink that can be read; name local or elasticsearch.")
    return app.reader


def _canary(app: AppParts) -> dict[str, Any] | None:
    """Return the state of a trial; if the registry cannot be read, `detail` says so, and the page shows all else."""
    try:
        return rollout.state(app.registry)
    except (RegistryError, StateError):
        return None


def _changes(app: AppParts) -> list[dict[str, Any]]:
    try:
        return app.registry.history()[: -RECENT - 1 : -1]
    except StateError:
        return []


def _local(path: str) -> bool:
    """Return whether a path stays on this server, however a browser reads it."""
    return path.startswith("/") and not path.startswith("//") and "\\" not in path and path.isprintable()
