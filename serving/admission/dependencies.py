"""Dependencies of routes: the parts of the app, and the permission that each route names."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, cast

from fastapi import Depends, FastAPI, Request, Security
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer
from starlette.routing import Mount

from llmops.access import roles as access
from llmops.access.keys import KeyStore
from llmops.access.presented import sha256, split
from llmops.access.roles import ExpiredKey, Forbidden, Key, MissingKey, Permission, RevokedKey, UnknownKey
from llmops.config import Config
from llmops.errors import AccessError
from llmops.monitoring.reader import Reader
from llmops.registry.registry import Registry
from serving.admission import signing
from serving.admission.limits import Limiter, RequestAllowance
from serving.engines.base import EngineRequest
from serving.errors import Limited
from serving.guard import Guard
from serving.models.documents import Documents
from serving.models.inputs import Inputs
from serving.models.watcher import Models
from serving.observe.audit import Audit, client_address, client_fields
from serving.observe.exchange import Digests
from serving.observe.metrics import Metrics

COOKIE = "llmops_session"

_header = APIKeyHeader(name="X-API-Key", auto_error=False, description="An API key, `llmops_…`.")
_bearer = HTTPBearer(auto_error=False, description="The same API key as a bearer token.")
_Header = Annotated[str | None, Security(_header)]
_Bearer = Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)]

_REASONS: dict[type[AccessError], str] = {
    MissingKey: "missing",
    UnknownKey: "unknown",
    ExpiredKey: "expired",
    RevokedKey: "revoked",
    Forbidden: "forbidden",
}


@dataclass(frozen=True)
class AppParts:
    """The parts of the app."""

    config: Config
    keys: KeyStore
    registry: Registry
    models: Models
    guard: Guard
    reader: Reader | None  #: of events; None where they go to no sink that can be read
    limiter: Limiter
    audit: Audit
    inputs: Inputs
    documents: Documents
    metrics: Metrics
    digests: Digests
    session_secret: bytes = field(repr=False)


def parts(request: Request) -> AppParts:
    """Return the parts of the app that a request reached."""
    return cast(AppParts, request.app.state.parts)


async def _parts(request: Request) -> AppParts:  # no plain function: FastAPI would call it in another thread
    return parts(request)


AppPartsDep = Annotated[AppParts, Depends(_parts)]


def require(permission: Permission) -> Callable[..., Coroutine[Any, Any, Key]]:
    """Make a dependency that lets only keys with this permission through, and gives the route the key.

    The key comes in the header `X-API-Key` or as a bearer token; for pages (GET) a session will do too.
    """

    async def allowed(request: Request, header: _Header, bearer: _Bearer) -> Key:
        app = parts(request)
        key = await _admit(request, app, header or (bearer.credentials if bearer else ""), permission)
        app.audit.note(request.scope, "allowed", key)
        return key

    allowed.permission = permission  # type: ignore[attr-defined]
    return allowed


def limited(permission: Permission) -> Callable[..., AsyncIterator[Key]]:
    """Return a dependency like that of `require`, which also counts the request against its key's limits.

    A route that uses an engine calls `await reserve(request, requests)` first. When the answer has ended, the tokens
    that its event says were used take the place of the reserved ones. The middleware adds the headers about limits.
    """

    async def allowed(request: Request, header: _Header, bearer: _Bearer) -> AsyncIterator[Key]:
        app = parts(request)
        key = await _admit(request, app, header or (bearer.credentials if bearer else ""), permission)
        request.state.event.update(client_fields(client_address(request.scope)))
        allowance = RequestAllowance(app.limiter, key, request.state.id, request.state.event)
        request.state.allowance = allowance
        await _within_limits(request, allowance.enter())
        failed: Exception | None = None
        try:
            yield key
        except Exception as error:
            failed = error
            raise
        finally:
            allowance.settle(failed)

    allowed.permission = permission  # type: ignore[attr-defined]
    return allowed


async def reserve(request: Request, requests: Sequence[EngineRequest]) -> None:
    """Set aside the most tokens that some requests to an engine could use, from the limits of the caller's key.

    Raises:
        Limited: if the key may not use so many now.
    """
    await _within_limits(request, cast(RequestAllowance, request.state.allowance).reserve(requests))


async def provided_side(app: AppParts, key: Key, side: str) -> str:
    """Return the side that is asked for; load a version that is not loaded first, if the key's role may test any."""
    known = {"", "champion", "canary", *(one.version.name for one in app.models.loaded)}
    if side in known or not key.allows("test_versions"):
        return side
    return await app.models.tested.provide(key.prefix, side, app.config.serving.timeout_s)


async def _within_limits(request: Request, taking: Coroutine[Any, Any, None]) -> None:
    try:
        await taking
    except Limited:
        _note_refusal(request, "limited", request.state.allowance.key)
        raise


async def session_cookie(request: Request, app: AppParts, presented: str) -> str:
    """Make a cookie that says for `signing.SESSION_S` seconds that its bearer has shown this key.

    Raises:
        AccessError: if the key is not good; the audit has it then.
    """
    key = await _admit(request, app, presented, None)
    app.audit.note(request.scope, "allowed", key)
    return signing.new_session(app.session_secret, key.prefix, sha256(split(presented)[2]))


async def _admit(request: Request, app: AppParts, presented: str, permission: Permission | None) -> Key:
    """Return the key that was presented, or without one that of the session, if it has the permission that is needed.

    Raises:
        AccessError: if the key is missing, not good, or lacks the permission; the audit has the refusal then.
    """
    key: Key | None = None
    try:
        if presented:
            key = await _asked(app, split(presented)[1], app.keys.known, presented)
        elif request.method == "GET" and (cookie := request.cookies.get(COOKIE)):
            key = await _asked(app, signing.session_prefix(cookie), _session_key, app, cookie)
        else:
            raise MissingKey("An API key is needed, in the header X-API-Key or as a bearer token.")
        request.state.event.update({"llmops.key.prefix": key.prefix, "user.roles": [key.role]})
        app.keys.good(key)
        if permission:
            access.require(key, permission)
    except AccessError as error:
        _note_refusal(request, _REASONS[type(error)], key)
        raise
    return key


def _note_refusal(request: Request, reason: str, key: Key | None) -> None:
    parts(request).audit.note(request.scope, reason, key)
    request.state.refused = True  # the audit counts it; an event of its own would let anybody fill the disk


async def public() -> None:
    """Mark a route that anybody may use."""


def permission_of(route: APIRoute) -> Permission | None:
    """Return the permission that a route asks for; None if it is public.

    Raises:
        RuntimeError: if the route says neither.
    """
    calls = list(_calls(route.dependant))
    for call in calls:
        if permission := getattr(call, "permission", None):
            return cast(Permission, permission)
    if public in calls:
        return None
    raise RuntimeError(f"The route {sorted(route.methods)} {route.path} names no permission; use require() or public.")


def assert_guarded(app: FastAPI, public_files: frozenset[str]) -> None:
    """Make sure that every route names its permission or is public on purpose; `public_files` are folders of files.

    Raises:
        RuntimeError: naming the first route that does not.
    """
    for route in app.routes:
        if isinstance(route, APIRoute):
            permission_of(route)
        elif not (isinstance(route, Mount) and route.path in public_files):
            raise RuntimeError(f"The route {route!r} is neither an API route nor a known folder of files.")


def _calls(dependant: Dependant) -> list[Any]:
    return [call for d in dependant.dependencies for call in (d.call, *_calls(d))]


async def _asked(app: AppParts, prefix: str, ask: Callable[..., Key], *args: object) -> Key:
    return ask(*args) if app.keys.at_hand(prefix) else await asyncio.to_thread(ask, *args)


def _session_key(app: AppParts, cookie: str) -> Key:
    """Return the key that a session was begun with; it may be revoked or expired by now."""
    return app.keys.proven(
        signing.session_prefix(cookie), lambda key_hash: signing.is_session(app.session_secret, cookie, key_hash)
    )
