"""What a browser's session may do, and whether it was a page of ours that asked for it.

A cookie comes along whoever makes the browser send a request, so what changes something must come from our own pages.
`SameSite=Strict` keeps other sites out; another program on the same host, at another port, is the same site.
"""

from __future__ import annotations

from fastapi import Request, Response

from llmops.access.roles import ForeignPage, MissingKey, Permission
from serving.admission.signing import SESSION_S

COOKIE = "llmops_session"

#: What the pages do; whoever changes what is served or who may do what shows the key itself
OF_PAGES: frozenset[Permission] = frozenset({"generate", "feedback", "review_feedback"})


def check_reach(request: Request, permission: Permission | None) -> None:
    """Make sure that a request may be made with a session.

    Raises:
        MissingKey: if it changes something and needs the key itself, or nothing says that a page of ours made it.
        ForeignPage: if another page made it.
    """
    if request.method == "GET":
        return
    if permission not in OF_PAGES:
        raise MissingKey("This needs the API key itself, in the header X-API-Key or as a bearer token, not a session.")
    check_origin(request)
    if not (request.headers.get("origin") or request.headers.get("sec-fetch-site")):
        raise MissingKey("A session is for the pages here; send the API key in the header X-API-Key.")


def check_origin(request: Request) -> None:
    """Make sure that no page of another origin made the request; see https://words.filippo.io/csrf.

    Raises:
        ForeignPage: if one did.
    """
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    if site in ("same-origin", "none"):
        return
    if site or (origin is not None and origin not in _origins(request.headers.get("host", ""))):
        raise ForeignPage(
            "This comes from a page of another origin, which may not use the session of this browser. If it does not, "
            "the proxy before this app does not pass the header Host on."
        )


def _origins(host: str) -> set[str]:
    """The origins of pages that this host serves: browsers leave out the port that a scheme has by itself."""
    return {f"{scheme}://{host.removesuffix(f':{port}')}" for scheme, port in (("http", 80), ("https", 443))}


def keep(request: Request, answer: Response, cookie: str) -> None:
    """Let the browser keep a session; with an empty `cookie`, forget the one it has."""
    lasts = SESSION_S if cookie else 0
    secure = request.url.scheme == "https"
    answer.set_cookie(COOKIE, cookie, max_age=lasts, httponly=True, samesite="strict", secure=secure)
