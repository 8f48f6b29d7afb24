"""The pages: playground, dashboard and its stages, drift, sign-in, and API docs that work offline."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Depends, Form, HTTPException, Request, Response
from fastapi.encoders import jsonable_encoder
from fastapi.responses import JSONResponse, RedirectResponse

from llmops.access.roles import Key
from llmops.access.usage import format_month, read_usage
from llmops.events.reader import Reader
from llmops.frame.errors import AccessError, LlmopsError, RegistryError, StateError
from llmops.release import rollout
from llmops.state.database import database_of
from serving.admission.dependencies import (
    COOKIE,
    AppParts,
    AppPartsDep,
    allow_anyone,
    find_session_key,
    make_person_cookie,
    make_session_cookie,
    require,
    require_within_limits,
)
from serving.admission.signing import SESSION_S
from serving.errors import STATUS, EventsUnreadable, SignInUnavailable
from serving.http.templates import render_page, render_sign_in_page
from serving.observe.dashboard import TimeSpan, read_dashboard, read_stage
from serving.observe.drift import read_drift

if TYPE_CHECKING:
    from serving.admission.provider import Provider

RECENT = 8  #: shown changes of aliases


async def refuse_other_sites(request: Request) -> None:
    """Refuse a form that a page of another site has sent: it would sign a browser in with the other's key, or out.

    Raises:
        HTTPException: with 403.
    """
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise HTTPException(403, "This form was sent by a page of another site; open the page here.")


router = APIRouter(include_in_schema=False)


@router.get("/", dependencies=[Depends(allow_anyone)])
async def show_playground(request: Request, app: AppPartsDep) -> Response:
    """Show the page to ask the model. It asks somebody without a session to sign in."""
    key, monitoring = await find_session_key(request), app.config.monitoring
    kept = monitoring.keep_text_days if monitoring.keep_text else 0
    return render_page(request, "playground.html", key=key, to="/", limits=app.config.serving, kept_days=kept)


@router.get("/dashboard")
async def show_dashboard(request: Request, key: Annotated[Key, Depends(require("view_dashboard"))]) -> Response:
    """Show the monitoring page; its script fetches `/dashboard/data`."""
    return render_page(request, "dashboard.html", key=key)


_limited = [Depends(require_within_limits("view_dashboard", budgeted=False)), Depends(require("view_dashboard"))]


@router.get("/dashboard/data", dependencies=_limited)
async def get_dashboard_data(app: AppPartsDep, span: TimeSpan = "1h") -> Response:
    """Return the figures of the dashboard and the state of serving."""
    async with app.reading_dashboard:
        return await asyncio.to_thread(lambda: JSONResponse(jsonable_encoder(_read_data(app, span))))


@router.get("/dashboard/stages/{stage}")
def show_stage(
    request: Request, app: AppPartsDep, stage: str, key: Annotated[Key, Depends(require("view_dashboard"))]
) -> Response:
    """Show the page of a stage: its figures, the change to the run before, and its latest runs."""
    figures = read_stage(_get_reader(app), stage, datetime.now(UTC))
    if figures is None:
        raise HTTPException(404, f"No stage {stage!r} has run; /dashboard lists those that have.")
    return render_page(request, "stage.html", key=key, **figures)


@router.get("/drift")
async def show_drift(request: Request, key: Annotated[Key, Depends(require("view_dashboard"))]) -> Response:
    """Show the drift page; its script fetches `/drift/data`."""
    return render_page(request, "drift.html", key=key)


@router.get("/drift/data", dependencies=[Depends(require("view_dashboard"))])
def get_drift_data(app: AppPartsDep) -> dict[str, Any]:
    """Return the comparisons of the last judged window of requests."""
    return read_drift(_get_reader(app), app.config.alerts.drift_windows)


@router.post("/signin", dependencies=[Depends(allow_anyone), Depends(refuse_other_sites)])
async def sign_in(
    request: Request, app: AppPartsDep, api_key: Annotated[str, Form()], to: Annotated[str, Form()] = "/dashboard"
) -> Response:
    """Exchange an API key for a session of the browser, and redirect to the page that the browser asked for."""
    try:
        cookie = await make_session_cookie(request, app, api_key)
    except (AccessError, StateError) as error:
        return _refuse_sign_in(request, error, to)
    return _start_session(request, to, cookie, SESSION_S)


@router.get("/signin/oidc", dependencies=[Depends(allow_anyone)])
async def begin_sign_in(request: Request, app: AppPartsDep, to: str = "/dashboard") -> Response:
    """Send the browser to the provider of sign-ins."""
    try:
        return await _get_provider(app).redirect(request, to)
    except SignInUnavailable as error:
        return _refuse_sign_in(request, error, to)


@router.get("/signin/oidc/callback", dependencies=[Depends(allow_anyone)])
async def finish_sign_in(request: Request, app: AppPartsDep) -> Response:
    """Give the browser that the provider has sent back a session, and redirect to the page that it asked for."""
    provider = _get_provider(app)
    to = provider.read_destination(request)
    try:
        answer = _start_session(request, to, *await make_person_cookie(request, app, provider))
    except (AccessError, SignInUnavailable, StateError) as error:
        answer = _refuse_sign_in(request, error, to)
    provider.forget(answer)
    return answer


@router.post("/signout", dependencies=[Depends(allow_anyone), Depends(refuse_other_sites)])
async def sign_out() -> Response:
    """End the session of the browser."""
    answer = RedirectResponse("/dashboard", status_code=303)
    answer.delete_cookie(COOKIE, httponly=True, samesite="lax")
    return answer


@router.get("/docs", dependencies=[Depends(allow_anyone)])
async def show_docs(request: Request) -> Response:
    """Show Swagger UI, from files in the package."""
    return render_page(request, "docs.html")


@router.get("/openapi.json", dependencies=[Depends(allow_anyone)])
async def get_openapi(request: Request) -> dict[str, Any]:
    """Return the API's description."""
    description: dict[str, Any] = request.app.openapi()
    return description


def _get_provider(app: AppParts) -> Provider:
    if not app.provider:
        raise HTTPException(404, "Sign-in by OpenID Connect is not set up here; serving.oidc does that.")
    return app.provider


def _start_session(request: Request, to: str, cookie: str, seconds: float) -> Response:
    answer = RedirectResponse(to if _is_local(to) else "/dashboard", status_code=303)
    secure = request.url.scheme == "https"
    answer.set_cookie(COOKIE, cookie, max_age=int(seconds), httponly=True, samesite="lax", secure=secure)
    return answer


def _refuse_sign_in(request: Request, error: LlmopsError, to: str) -> Response:
    status = next(status for kind, (status, _) in STATUS.items() if isinstance(error, kind))
    return render_sign_in_page(request, status, str(error), to)


def _get_reader(app: AppParts) -> Reader:
    if not app.reader:
        raise EventsUnreadable("No sink of events can be read; add local or elasticsearch to monitoring.sinks.")
    return app.reader


def _read_data(app: AppParts, span: TimeSpan) -> dict[str, Any]:
    champion = app.models.champion
    serving = {
        "version": champion.version.name if champion else None,
        "detail": app.models.explain_with_error(),
        "canary": _read_trial(app),
        "changes": _read_changes(app),
    }
    objectives = app.config.monitoring.model_dump(include={"latency_p95_ms", "error_rate"})
    figures = read_dashboard(_get_reader(app), span, app.config.alerts.drift_windows)
    return {**figures, "serving": serving, "objectives": objectives, "usage": _read_usage(app)}


def _read_trial(app: AppParts) -> dict[str, Any] | None:
    """Return the state of a trial. If the registry cannot be read, `detail` has the error, and the page still works."""
    try:
        return rollout.describe_trial(app.registry)
    except (RegistryError, StateError):
        return None


def _read_changes(app: AppParts) -> list[dict[str, Any]]:
    try:
        return app.registry.history()[: -RECENT - 1 : -1]
    except StateError:
        return []


def _read_usage(app: AppParts) -> dict[str, Any]:
    month = format_month(datetime.now(UTC))
    try:
        keys = read_usage(database_of(app.config), month).keys
    except StateError:
        keys = []
    return {"month": month, "keys": keys}


def _is_local(path: str) -> bool:
    """Return True if a browser reads a path as one on this server."""
    return path.startswith("/") and not path.startswith("//") and "\\" not in path and path.isprintable()
