"""Dependencies of routes: the parts of the app, and the permission that each route names."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, cast

from fastapi import Depends, FastAPI, Request, Security
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer
from starlette.routing import Mount

from llmops.access import people
from llmops.access import roles as access
from llmops.access.keys import KeyStore
from llmops.access.presented import hash_secret, split_key
from llmops.access.roles import (
    ExpiredKey,
    Forbidden,
    Key,
    MissingKey,
    NoMappedGroup,
    Permission,
    RevokedKey,
    SignInRefused,
    UnknownKey,
)
from llmops.config import Config
from llmops.events.reader import Reader
from llmops.frame.errors import AccessError, StateError
from llmops.release.registry.registry import Registry
from serving.admission import signing
from serving.admission.budgets import Budgets
from serving.admission.limits import Limiter, RequestAllowance
from serving.engines.base import EngineRequest
from serving.errors import LimitExceeded
from serving.guard import Guard
from serving.models.documents import Documents
from serving.models.inputs import Inputs
from serving.models.watcher import Models
from serving.observe.audit import Audit, format_client_fields, get_client_address
from serving.observe.exchange import Digests
from serving.observe.metrics import Metrics

if TYPE_CHECKING:
    from serving.admission.provider import Provider

COOKIE = "llmops_session"
PAGE_HEADER = "X-LLMOps-Page"  #: in requests of our pages' scripts; a browser lets no other site's page send it

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
    SignInRefused: "sign_in_refused",
    NoMappedGroup: "no_role",
}


@dataclass(frozen=True)
class AppParts:
    """The parts of the app."""

    config: Config
    keys: KeyStore
    registry: Registry
    models: Models
    guard: Guard
    reader: Reader | None  #: reader of events; None if no sink of events can be read
    limiter: Limiter
    budgets: Budgets
    audit: Audit
    inputs: Inputs
    documents: Documents
    metrics: Metrics
    digests: Digests
    provider: Provider | None  #: of sign-ins by OpenID Connect
    session_secret: bytes = field(repr=False)
    #: One thread at a time, because recognisers of personal data are Python: each further one would slow all answers.
    storing_feedback: asyncio.Lock = field(default_factory=asyncio.Lock)
    reading_dashboard: asyncio.Lock = field(default_factory=asyncio.Lock)  #: one thread at a time, as above


def get_parts(request: Request) -> AppParts:
    """Return the parts of the request's app."""
    return cast(AppParts, request.app.state.parts)


async def _depend_on_parts(request: Request) -> AppParts:  # FastAPI would call a plain function in another thread
    return get_parts(request)


AppPartsDep = Annotated[AppParts, Depends(_depend_on_parts)]


def require(permission: Permission) -> Callable[..., Coroutine[Any, Any, Key]]:
    """Return a dependency that admits only keys with this permission, and passes the key to the route.

    The key comes in the header `X-API-Key`, as a bearer token, or with a browser's session. A session changes something
    (any method but GET) only with the header `PAGE_HEADER`, so that no page of another site can act in its name.
    """

    async def admit(request: Request, header: _Header, bearer: _Bearer) -> Key:
        app = get_parts(request)
        key = await _admit(request, app, header or (bearer.credentials if bearer else ""), permission)
        app.audit.record_decision(request.scope, "allowed", key)
        return key

    admit.permission = permission  # type: ignore[attr-defined]
    return admit


def require_within_limits(permission: Permission, budgeted: bool = True) -> Callable[..., AsyncIterator[Key]]:
    """Return a dependency like that of `require` that also counts the request against its key's limits.

    A request that is not `budgeted` is admitted after the key's budget of the month is used up, and uses none of it.

    A route that uses an engine calls `await reserve(request, requests)` first. After the answer, the used tokens in its
    event replace the reserved ones. The middleware adds the headers about limits.
    """

    async def admit(request: Request, header: _Header, bearer: _Bearer) -> AsyncIterator[Key]:
        app = get_parts(request)
        key = await _admit(request, app, header or (bearer.credentials if bearer else ""), permission)
        request.state.event.update(format_client_fields(get_client_address(request.scope)))
        allowance = RequestAllowance(
            app.limiter, app.budgets if budgeted else None, key, request.state.id, request.state.event
        )
        request.state.allowance = allowance
        await _record_if_limited(request, allowance.enter())
        failed: Exception | None = None
        try:
            yield key
        except Exception as error:
            failed = error
            raise
        finally:
            allowance.settle(failed)

    admit.permission = permission  # type: ignore[attr-defined]
    return admit


async def reserve(request: Request, requests: Sequence[EngineRequest]) -> None:
    """Reserve the most tokens that these requests to an engine could use, within the limits of the caller's key.

    Raises:
        LimitExceeded: if the key may not use so many now.
    """
    allowance, system_prompt = cast(RequestAllowance, request.state.allowance), get_parts(request).models.system_prompt
    await _record_if_limited(request, allowance.reserve(requests, len(system_prompt.encode())))


async def provide_side(app: AppParts, key: Key, side: str) -> str:
    """Return the side that the caller asks for. If it is an unloaded version and the key may test versions, load it."""
    known = {"", "champion", "canary", *(one.version.name for one in app.models.loaded)}
    if side in known or not key.allows("test_versions"):
        return side
    return await app.models.tested.provide(key.answered_to, side, app.config.serving.timeout_s)


async def _record_if_limited(request: Request, take: Coroutine[Any, Any, None]) -> None:
    try:
        await take
    except LimitExceeded:
        _record_refusal(request, "limited", request.state.allowance.key)
        raise


async def make_session_cookie(request: Request, app: AppParts, presented: str) -> str:
    """Return a cookie that replaces the presented key for `signing.SESSION_S` seconds.

    Raises:
        AccessError: if the key is not valid, after the audit's entry.
    """
    key = await _admit(request, app, presented, None)
    app.audit.record_decision(request.scope, "allowed", key)
    return signing.make_session(app.session_secret, key.prefix, hash_secret(split_key(presented)[2]))


async def make_person_cookie(request: Request, app: AppParts, provider: Provider) -> tuple[str, float]:
    """Return the session cookie of a person whom the provider has sent back, and how many seconds it is valid.

    Raises:
        AccessError: if the answer of the provider proves nothing, or the person has no role, after the audit's entry.
        SignInUnavailable: if the provider does not answer.
    """
    try:
        person = await provider.identify(request)
        role = people.choose_role(person.groups, provider.roles)
        if role is None:
            mapped = ", ".join(f"{group} ({role})" for group, role in provider.roles.items())
            raise NoMappedGroup(f"{person.name} is in no group that has a role here. These groups have one: {mapped}.")
        key = await asyncio.to_thread(app.keys.admit_person, person.prefix, person.name, role)
    except AccessError as error:
        _record_refusal(request, _REASONS[type(error)], None)
        raise
    app.audit.record_decision(request.scope, "allowed", key)
    return signing.make_session(app.session_secret, key.prefix, key.sha256, person.seconds), person.seconds


async def find_session_key(request: Request) -> Key | None:
    """Return the key of the browser's session, if it has a valid one, for a page that everybody may see."""
    app, cookie = get_parts(request), request.cookies.get(COOKIE, "")
    try:
        return app.keys.check_valid(await _check_session(app, cookie)) if cookie else None
    except (AccessError, StateError):
        return None


async def _admit(request: Request, app: AppParts, presented: str, permission: Permission | None) -> Key:
    """Return the presented key, or else the session's key, if it has the permission.

    Raises:
        AccessError: if the key is missing, not valid, or lacks the permission, after the audit's entry.
    """
    key: Key | None = None
    try:
        if presented:
            key = await _check_key(app, split_key(presented)[1], app.keys.identify, presented)
        elif (request.method == "GET" or PAGE_HEADER in request.headers) and (cookie := request.cookies.get(COOKIE)):
            key = await _check_session(app, cookie)
        else:
            raise MissingKey("An API key is needed, in the header X-API-Key or as a bearer token.")
        request.state.event.update({"llmops.key.prefix": key.prefix, "user.roles": [key.role]})
        app.keys.check_valid(key)
        if permission:
            access.require(key, permission)
    except AccessError as error:
        _record_refusal(request, _REASONS[type(error)], key)
        raise
    return key


def _record_refusal(request: Request, reason: str, key: Key | None) -> None:
    get_parts(request).audit.record_decision(request.scope, reason, key)
    request.state.refused = True  # it gets no event, so that nobody without a key can fill the disk


async def allow_anyone() -> None:
    """Allow every caller, as a dependency of public routes."""


def get_permission(route: APIRoute) -> Permission | None:
    """Return the permission that a route requires; None if it is public.

    Raises:
        RuntimeError: if the route declares neither.
    """
    calls = list(_list_calls(route.dependant))
    for call in calls:
        if permission := getattr(call, "permission", None):
            return cast(Permission, permission)
    if allow_anyone in calls:
        return None
    raise RuntimeError(
        f"The route {sorted(route.methods)} {route.path} names no permission; use require() or allow_anyone."
    )


def assert_guarded(app: FastAPI, public_files: frozenset[str]) -> None:
    """Check that every route names its permission or is public on purpose. `public_files` are folders of files.

    Raises:
        RuntimeError: with the first route that does not.
    """
    for route in app.routes:
        if isinstance(route, APIRoute):
            get_permission(route)
        elif not (isinstance(route, Mount) and route.path in public_files):
            raise RuntimeError(f"The route {route!r} is neither an API route nor a known folder of files.")


def _list_calls(dependant: Dependant) -> list[Any]:
    return [call for d in dependant.dependencies for call in (d.call, *_list_calls(d))]


async def _check_key(app: AppParts, prefix: str, check: Callable[..., Key], *args: object) -> Key:
    return check(*args) if app.keys.is_cached(prefix) else await asyncio.to_thread(check, *args)


async def _check_session(app: AppParts, cookie: str) -> Key:
    prefix = signing.read_session_prefix(cookie)
    return await _check_key(
        app, prefix, app.keys.identify_session, prefix, partial(signing.is_session, app.session_secret, cookie)
    )
