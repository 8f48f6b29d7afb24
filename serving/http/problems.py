"""Errors for callers: status, body and headers, in our own form or in OpenAI's."""

from __future__ import annotations

import logging
import re
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from llmops.access.roles import MissingKey
from llmops.errors import AccessError, EventsUnavailable, LlmopsError
from serving.errors import STATUS
from serving.http.templates import sign_in_page

log = logging.getLogger(__name__)

#: what OpenAI calls our codes, where it has a word for them
OPENAI_CODES = {
    "key_unknown": "invalid_api_key",
    "key_expired": "invalid_api_key",
    "key_revoked": "invalid_api_key",
    "prompt_too_long": "context_length_exceeded",
    "queue_full": "rate_limit_exceeded",
    "limited": "rate_limit_exceeded",
}
OPENAI_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_PATHS = ("internal", "state_unreadable")  #: their texts may name paths of this machine
HIDDEN = "Something is wrong here, not with the request; the log says what."
MOST_DETAIL = 1000  #: characters


async def problem_response(request: Request, error: Exception) -> Response:
    """Return the response that tells a caller of an error; the request's event gets the error's code."""
    status, body, headers = describe_problem(request, error)
    if isinstance(error, AccessError) and request.method == "GET" and "text/html" in request.headers.get("accept", ""):
        why = "" if isinstance(error, MissingKey) else str(error)
        return sign_in_page(request, status, why, request.url.path)  # a browser, which can ask its user for a key
    return JSONResponse(body, status, headers)


def describe_problem(request: Request, error: Exception) -> tuple[int, dict[str, Any], dict[str, str]]:
    """Return status, body and headers that tell a caller of an error; the request's event gets the error's code.

    Below `/v1` the body is as OpenAI's clients expect it, elsewhere a `Problem`.
    """
    headers: dict[str, str] = {}
    if isinstance(error, RequestValidationError):
        status, code, detail = 422, "invalid", _places(error)
    elif isinstance(error, HTTPException):
        status, code, detail = error.status_code, "http", _http(request, error)
        headers.update(error.headers or {})
    elif isinstance(error, LlmopsError):
        status, code = next(entry for kind, entry in STATUS.items() if isinstance(error, kind))
        detail = HIDDEN if code in _PATHS else str(error)
        if isinstance(error, EventsUnavailable):  # its text may name paths and addresses
            detail = f"Events cannot be read from {error.place} now; the log says why."
    else:
        status, code, detail = 500, "internal", HIDDEN
    if detail is HIDDEN or code == "events_unavailable":
        log.error("Request %s failed", request.state.id, exc_info=error)
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if retry_after_s := getattr(error, "retry_after_s", 5 if status == 503 else 0):
        headers["Retry-After"] = str(retry_after_s)
    if len(detail) > MOST_DETAIL:  # what was sent can be in it, as long as it was
        detail = detail[:MOST_DETAIL] + "…"
    request.state.event["error.type"] = code
    if request.url.path.startswith("/v1/"):
        return _openai(status, code, detail, error, headers)
    return status, {"detail": detail, "code": code, "id": request.state.id}, headers


def _openai(
    status: int, code: str, detail: str, error: Exception, headers: dict[str, str]
) -> tuple[int, dict[str, Any], dict[str, str]]:
    status = 400 if status == 422 else status
    kind = OPENAI_TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    param = _param(error.errors()[0]) if isinstance(error, RequestValidationError) else ""
    if code == "prompt_too_long":
        detail += f" ({OPENAI_CODES[code]})"  # LangChain looks for OpenAI's word in the message
    body = {"message": detail, "type": kind, "param": param or None, "code": OPENAI_CODES.get(code, code)}
    return status, {"error": body}, headers


def _http(request: Request, error: HTTPException) -> str:
    """Say why the framework itself refuses a request, in words that help."""
    if error.status_code == 404 and error.detail == "Not Found":
        return f"There is no {request.url.path} here; /docs lists what there is."
    if error.status_code == 405:
        return f"{request.method} is not taken here; {(error.headers or {}).get('Allow', 'another method')} is."
    if error.status_code == 400 and error.__cause__:  # too deep, not UTF-8, a number of thousands of digits
        return f"The body cannot be read as JSON: {str(error.__cause__).partition(';')[0]}."
    return str(error.detail)


#: of pydantic's kinds of errors, those whose own words are for programmers
_WORDS = {
    "extra_forbidden": "is not known here",
    "json_invalid": "is no JSON: {error}",
    "model_attributes_type": "should be a JSON object, sent with Content-Type: application/json",
    "not_done": "is not supported; leave it out",
    "value_error": "{error}",
}
#: pydantic's names for the types that a value may have; it puts them into a place, though nobody sent them
_TYPE = re.compile(r"(function-\w+|list|nullable)\[.*\]|str|TextPart", re.DOTALL)


def _places(error: RequestValidationError) -> str:
    """Say what does not fit the schema and where; the values sent are not repeated."""
    text = "; ".join(dict.fromkeys(f"{_place(e)}: {_words(e)}" for e in error.errors()))
    return text.encode("utf-8", "backslashreplace").decode()  # a key of the body may hold what no answer can


def _words(error: dict[str, Any]) -> str:
    ours = _WORDS.get(error["type"])
    return ours.format_map(error.get("ctx", {})) if ours else str(error["msg"])


def _place(error: dict[str, Any]) -> str:
    path = [str(part) for part in error["loc"]]
    sent = path[-1:] if error["type"] == "extra_forbidden" else []  # a key of the caller's own, whatever it looks like
    shown = [part for part in path[: len(path) - len(sent)] if not _TYPE.fullmatch(part)]
    return ".".join([*shown, *sent, *([error["ctx"]["name"]] if error["type"] == "not_done" else [])])


def _param(error: dict[str, Any]) -> str:
    """Return the same place for OpenAI's clients, which leave out that it is in the body."""
    return _place(error).partition(".")[2].encode("utf-8", "backslashreplace").decode()
