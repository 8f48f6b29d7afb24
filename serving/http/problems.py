"""Error responses: status, body and headers, in this app's form or in OpenAI's."""

from __future__ import annotations

import logging
import re
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from llmops.access.roles import MissingKey
from llmops.frame.errors import AccessError, EventsUnavailable, LlmopsError
from serving.errors import STATUS, BudgetUsed
from serving.http.templates import render_sign_in_page

log = logging.getLogger(__name__)

#: this app's codes → OpenAI's
OPENAI_CODES = {
    "key_unknown": "invalid_api_key",
    "key_expired": "invalid_api_key",
    "key_revoked": "invalid_api_key",
    "prompt_too_long": "context_length_exceeded",
    "queue_full": "rate_limit_exceeded",
    "queue_share_full": "rate_limit_exceeded",
    "limited": "rate_limit_exceeded",
}
OPENAI_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_HIDDEN_CODES = ("internal", "state_unreadable")  #: errors whose messages may have paths of this machine
HIDDEN_DETAIL = "The server failed, not the request; the log has the reason."
MAX_DETAIL_CHARS = 1000  #: characters


async def respond_to_error(request: Request, error: Exception) -> Response:
    """Return the response for an error, and put the error's code into the request's event."""
    status, body, headers = describe_problem(request, error)
    if isinstance(error, AccessError) and request.method == "GET" and "text/html" in request.headers.get("accept", ""):
        message = "" if isinstance(error, MissingKey) else str(error)
        return render_sign_in_page(request, status, message, request.url.path)  # a browser can ask its user for a key
    return JSONResponse(body, status, headers)


def describe_problem(request: Request, error: Exception) -> tuple[int, dict[str, Any], dict[str, str]]:
    """Return status, body and headers for an error, and put the error's code into the request's event.

    Below `/v1` the body has OpenAI's form, elsewhere it is a `Problem`.
    """
    headers: dict[str, str] = {}
    if isinstance(error, RequestValidationError):
        status, code, detail = 422, "invalid", _explain_invalid_body(error)
    elif isinstance(error, HTTPException):
        status, code, detail = error.status_code, "http", _explain_http_error(request, error)
        headers.update(error.headers or {})
    elif isinstance(error, LlmopsError):
        status, code = next(entry for kind, entry in STATUS.items() if isinstance(error, kind))
        detail = HIDDEN_DETAIL if code in _HIDDEN_CODES else str(error)
        if isinstance(error, EventsUnavailable):  # its message may have paths and addresses
            detail = f"Events cannot be read from {error.source} now; the log says why."
    else:
        status, code, detail = 500, "internal", HIDDEN_DETAIL
    if detail is HIDDEN_DETAIL or code == "events_unavailable":
        log.error("Request %s failed", request.state.id, exc_info=error)
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if retry_after_s := getattr(error, "retry_after_s", 5 if status == 503 else 0):
        headers["Retry-After"] = str(retry_after_s)
    if isinstance(error, BudgetUsed):
        headers["x-should-retry"] = "false"  # OpenAI's clients would try again within seconds
    if len(detail) > MAX_DETAIL_CHARS:  # it may quote the request
        detail = detail[:MAX_DETAIL_CHARS] + "…"
    request.state.event["error.type"] = code
    if request.url.path.startswith("/v1/"):
        return _format_openai(status, code, detail, error, headers)
    return status, {"detail": detail, "code": code, "id": request.state.id}, headers


def _format_openai(
    status: int, code: str, detail: str, error: Exception, headers: dict[str, str]
) -> tuple[int, dict[str, Any], dict[str, str]]:
    status = 400 if status == 422 else status
    kind = OPENAI_TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    param = _name_param(error.errors()[0]) if isinstance(error, RequestValidationError) else ""
    if code == "prompt_too_long":
        detail += f" ({OPENAI_CODES[code]})"  # LangChain looks for OpenAI's code in the message
    body = {"message": detail, "type": kind, "param": param or None, "code": OPENAI_CODES.get(code, code)}
    return status, {"error": body}, headers


def _explain_http_error(request: Request, error: HTTPException) -> str:
    if error.status_code == 404 and error.detail == "Not Found":
        return f"There is no {request.url.path} here; /docs lists the routes."
    if error.status_code == 405:
        return f"{request.method} is not allowed here; {(error.headers or {}).get('Allow', 'another method')} is."
    if error.status_code == 400 and error.__cause__:  # too deep, not UTF-8, or a number with thousands of digits
        return f"The body cannot be read as JSON: {str(error.__cause__).partition(';')[0]}."
    return str(error.detail)


#: pydantic's error types whose own messages are for programmers → message
_MESSAGES = {
    "extra_forbidden": "is not known here; leave it out",
    "json_invalid": "is no JSON: {error}",
    "model_attributes_type": "should be a JSON object, sent with Content-Type: application/json",
    "unsupported": "is not supported: {reason}",
    "value_error": "{error}",
}
#: pydantic's names for types, which it adds to the location of an error
_TYPE_NAME = re.compile(r"(function-\w+|list|nullable)\[.*\]|str|TextPart", re.DOTALL)


def _explain_invalid_body(error: RequestValidationError) -> str:
    """Return the places that do not fit the schema, each with the reason, without the values that were sent."""
    text = "; ".join(dict.fromkeys(f"{_locate(e)}: {_describe_error(e)}" for e in error.errors()))
    return text.encode("utf-8", "backslashreplace").decode()  # a key of the body may not be valid UTF-8


def _describe_error(error: dict[str, Any]) -> str:
    message = _MESSAGES.get(error["type"])
    return message.format_map(error.get("ctx", {})) if message else str(error["msg"])


def _locate(error: dict[str, Any]) -> str:
    path = [str(part) for part in error["loc"]]
    sent = path[-1:] if error["type"] == "extra_forbidden" else []  # the caller's key may look like a type's name
    shown = [part for part in path[: len(path) - len(sent)] if not _TYPE_NAME.fullmatch(part)]
    return ".".join([*shown, *sent, *([error["ctx"]["name"]] if error["type"] == "unsupported" else [])])


def _name_param(error: dict[str, Any]) -> str:
    """Return the location without `body`, for OpenAI's clients."""
    return _locate(error).partition(".")[2].encode("utf-8", "backslashreplace").decode()
