"""Rendering of the HTML pages in `web/templates`."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from fastapi import Request, Response
from fastapi.templating import Jinja2Templates


def page(request: Request, template: str, status: int = 200, **values: Any) -> Response:
    """Render a page, which knows the model's name; everything put into it is escaped."""
    values["model"] = request.app.state.parts.config.release.name
    return _templates().TemplateResponse(request, template, values, status_code=status)


def sign_in_page(request: Request, status: int, message: str, to: str) -> Response:
    """Render the page that asks for a key, with the error; `to` is where it leads afterwards."""
    return page(request, "signin.html", status, message=message, to=to)


@cache
def _templates() -> Jinja2Templates:
    return Jinja2Templates(Path(__file__).parents[1] / "web" / "templates")
