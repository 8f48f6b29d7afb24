"""The HTML pages in `web/templates`."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fastapi import Request, Response
from fastapi.templating import Jinja2Templates


def render_page(request: Request, template: str, status: int = 200, **values: Any) -> Response:
    """Return a page with these values, the model's name, and the host of the provider of sign-ins. All are escaped."""
    config = request.app.state.parts.config
    oidc = config.serving.oidc
    values |= {"model": config.release.name, "provider": urlsplit(oidc.issuer).hostname if oidc else ""}
    return _load_templates().TemplateResponse(request, template, values, status_code=status)


def render_sign_in_page(request: Request, status: int, message: str, to: str) -> Response:
    """Return the page to sign in, with an error message. `to` is the path to open after the sign-in."""
    return render_page(request, "signin.html", status, message=message, to=to)


@cache
def _load_templates() -> Jinja2Templates:
    return Jinja2Templates(Path(__file__).parents[1] / "web" / "templates")
