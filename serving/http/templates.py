"""Rendering of the HTML pages in `web/templates`."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from fastapi import Request, Response
from fastapi.templating import Jinja2Templates

from llmops.access.roles import Key


def page(request: Request, template: str, status: int = 200, **values: Any) -> Response:
    """A page; everything put into it is escaped. It knows the model's name, and with `key` whose session it is."""
    values["model"] = request.app.state.parts.config.release.name
    return _templates().TemplateResponse(request, template, values, status_code=status)


def refused_page(request: Request, key: Key, message: str, to: str) -> Response:
    """What a browser gets whose key is good, but of a role that may not see the page; another key leads on to `to`."""
    return page(request, "refused.html", 403, key=key, message=message, to=to)


def sign_in_page(request: Request, status: int, message: str, to: str) -> Response:
    """The page that asks for a key, with what was wrong; `to` is where it leads afterwards.

    Who followed a link on another site (or in a mail) came without the cookie, which browsers keep back then: the page
    asks once more by itself, and if there is a session shows what was asked for.
    """
    again = request.method == "GET" and request.headers.get("sec-fetch-site") == "cross-site"
    return page(request, "signin.html", status, message=message, to=to, again=again)


@cache
def _templates() -> Jinja2Templates:
    return Jinja2Templates(Path(__file__).parents[1] / "web" / "templates")
