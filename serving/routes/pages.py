"""The pages: playground, dashboard, drift, sign-in, and API docs that need no network.

All of them know a browser by one session, which `POST /signin` begins and `POST /signout` ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Form, Request, Response
from fastapi.responses import RedirectResponse

from llmops.access.roles import Key
from llmops.errors import AccessError, RegistryError, StateError
from llmops.monitoring.reader import Reader
from llmops.release import rollout
from serving.admission import sessions
from serving.admission.dependencies import (
    AppParts,
    AppPartsDep,
    note_refusal,
    public,
    require,
    session_cookie,
    session_key,
    signed_in,
)
from serving.admission.signing import SESSION_S, session_parts
from serving.errors import STATUS, EventsUnreadable
from serving.http.templates import page, sign_in_page
from serving.observe.dashboard import Span, dashboard_figures
from serving.observe.drift import drift_figures

log = logging.getLogger(__name__)

RECENT = 8  #: changes of aliases that are shown
HOME = "/"  #: where sign-in leads, unless another page was asked for
_HERE_ONLY = (
    "You are signed out in this browser. The session itself could not be ended, since the database does not take it "
    "now: who has copied its cookie can use it until its 12 hours are over or the key is rotated."
)

router = APIRouter(include_in_schema=False)
SignedInDep = Annotated[Key | None, Depends(signed_in)]


@router.get("/")
async def playground(request: Request, app: AppPartsDep, key: Annotated[Key, Depends(require("generate"))]) -> Response:
    """A page to ask the model; its script asks by `/v1/chat/completions`, with the session."""
    monitoring = app.config.monitoring
    kept = monitoring.keep_text_days if monitoring.keep_text else 0
    grounded = app.config.grounding.enabled
    return page(request, "playground.html", key=key, limits=app.config.serving, kept_days=kept, grounded=grounded)


@router.get("/dashboard")
async def dashboard(request: Request, key: Annotated[Key, Depends(require("view_dashboard"))]) -> Response:
    """The monitoring page; its script fetches `/dashboard/data`."""
    return page(request, "dashboard.html", key=key)


@router.get("/dashboard/data", dependencies=[Depends(require("view_dashboard"))])
def dashboard_data(app: AppPartsDep, span: Span = "1h") -> dict[str, Any]:
    """The figures of the dashboard and what is being served."""
    champion = app.models.champion
    serving = {
        "version": champion.version.name if champion else None,
        "detail": app.models.cause(),
        "canary": _canary(app),
        "changes": _changes(app),
    }
    objectives = app.config.monitoring.model_dump(include={"latency_p95_ms", "error_rate"})
    return {**dashboard_figures(_reader(app), span), "serving": serving, "objectives": objectives}


@router.get("/drift")
async def drift(request: Request, key: Annotated[Key, Depends(require("view_dashboard"))]) -> Response:
    """The page of drift; its script fetches `/drift/data`."""
    return page(request, "drift.html", key=key)


@router.get("/drift/data", dependencies=[Depends(require("view_dashboard"))])
def drift_data(app: AppPartsDep) -> dict[str, Any]:
    """What differs of the last window of requests that was judged, and in what."""
    return drift_figures(_reader(app), app.config.alerts.drift_windows)


@router.get("/signin", dependencies=[Depends(public)])
async def ask_for_key(request: Request, to: str = HOME) -> Response:
    """The page that asks for a key; other pages show the same one to whoever has no session."""
    return sign_in_page(request, 200, "", to)


@router.post("/signin", dependencies=[Depends(public)])
async def signin(
    request: Request, app: AppPartsDep, api_key: Annotated[str, Form()], to: Annotated[str, Form()] = HOME
) -> Response:
    """Exchange an API key for a session of the browser, and go on to the page that was asked for."""
    try:
        _own(request)
        cookie = await session_cookie(request, app, api_key)
    except AccessError as error:
        status = next(status for kind, (status, _) in STATUS.items() if isinstance(error, kind))
        return sign_in_page(request, status, str(error), to)
    with contextlib.suppress(AccessError, StateError):
        await _end_session(request, app)  # the one that the browser had: nobody could sign it out any more
    answer = RedirectResponse(to if _local(to) else HOME, status_code=303)
    sessions.keep(request, answer, cookie)
    return answer


@router.post("/signout", dependencies=[Depends(public)])
async def signout(request: Request, app: AppPartsDep) -> Response:
    """End the session, for whoever has copied its cookie, too; say so where that cannot be done."""
    _own(request)
    answer: Response = RedirectResponse("/signin", status_code=303)
    try:
        app.audit.note(request.scope, "allowed", await _end_session(request, app))
    except AccessError as error:
        log.debug("There was no session to sign out: %s", error)
    except StateError as error:
        log.warning("A session was signed out in its browser only: %s", error)
        answer = sign_in_page(request, 200, _HERE_ONLY, HOME)
    sessions.keep(request, answer, "")
    return answer


@router.get("/docs", dependencies=[Depends(public)])
async def docs(request: Request, key: SignedInDep) -> Response:
    """Swagger UI, from files that came with the package."""
    return page(request, "docs.html", key=key)


@router.get("/openapi.json", dependencies=[Depends(public)])
async def openapi(request: Request) -> dict[str, Any]:
    """The API's description."""
    description: dict[str, Any] = request.app.openapi()
    return description


async def _end_session(request: Request, app: AppParts) -> Key:
    """End the session that the browser has; gives its key, and raises what `session_key` and `end_session` do."""
    key = await session_key(request, app)
    _, session = session_parts(request.cookies[sessions.COOKIE])
    await asyncio.to_thread(app.keys.end_session, session, SESSION_S)
    return key


def _own(request: Request) -> None:
    """Make sure that no other page signs a browser in or out; raises `ForeignPage`."""
    try:
        sessions.check_origin(request)
    except AccessError:
        note_refusal(request, "foreign_page", None)
        raise


def _reader(app: AppParts) -> Reader:
    """What events are read from.

    Raises:
        EventsUnreadable: if they go to no sink that can be read.
    """
    if not app.reader:
        raise EventsUnreadable()
    return app.reader


def _canary(app: AppParts) -> dict[str, Any] | None:
    """How the canary does; a registry that cannot be read is told in `detail`, and the page shows all else."""
    try:
        return rollout.state(app.registry)
    except (RegistryError, StateError):
        return None


def _changes(app: AppParts) -> list[dict[str, Any]]:
    """The latest changes of what answers, newest first; none where they cannot be read."""
    try:
        return app.registry.history()[: -RECENT - 1 : -1]
    except StateError:
        return []


def _local(path: str) -> bool:
    """Whether a path stays on this server, however a browser reads it."""
    return path.startswith("/") and not path.startswith("//") and "\\" not in path and path.isprintable()
