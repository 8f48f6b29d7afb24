"""What callers are told when a request cannot be answered: one table from error to status and code."""

from __future__ import annotations

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from llmops.errors import AccessError, LlmopsError, RegistryError
from llmops.governance.access import ExpiredKey, Forbidden, KeyFileError, RevokedKey, UnknownKey
from serving.templates import sign_in


class NotReady(LlmopsError):
    """No model is loaded."""


class PromptRefused(LlmopsError):
    """The prompt is empty or too long, or asks for too much."""


class QueueFull(LlmopsError):
    """Too many requests wait already."""

    def __init__(self, waiting: int, retry_after_s: int) -> None:
        super().__init__(f"{waiting} requests wait already; try again in {retry_after_s} s.")
        self.retry_after_s = retry_after_s


#: error → HTTP status and a code for programs; the first that fits counts
STATUS: dict[type[LlmopsError], tuple[int, str]] = {
    UnknownKey: (401, "key_unknown"),
    ExpiredKey: (401, "key_expired"),
    RevokedKey: (401, "key_revoked"),
    Forbidden: (403, "forbidden"),
    AccessError: (401, "access"),
    KeyFileError: (503, "keys_unreadable"),
    PromptRefused: (422, "prompt_refused"),
    QueueFull: (429, "queue_full"),
    NotReady: (503, "not_ready"),
    RegistryError: (409, "registry"),
    LlmopsError: (500, "internal"),
}


async def answer(request: Request, error: Exception) -> Response:
    """The answer that tells a caller of an error, and its code for the request's event."""
    headers: dict[str, str] = {}
    if isinstance(error, RequestValidationError):
        status, code, detail = 422, "invalid", _places(error)
    elif isinstance(error, HTTPException):
        status, code, detail = error.status_code, "http", str(error.detail)
        headers.update(error.headers or {})
    elif isinstance(error, LlmopsError):
        status, code = next(entry for kind, entry in STATUS.items() if isinstance(error, kind))
        detail = str(error)
    else:
        status, code, detail = 500, "internal", "Something is wrong here, not with the request; the log says what."
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, QueueFull):
        headers["Retry-After"] = str(error.retry_after_s)
    elif status == 503:
        headers["Retry-After"] = "5"
    request.state.event["error.type"] = code
    if isinstance(error, AccessError) and request.method == "GET" and "text/html" in request.headers.get("accept", ""):
        return sign_in(request, status, detail, request.url.path)  # a browser, which can ask its user for a key
    return JSONResponse({"detail": detail, "code": code, "id": request.state.id}, status, headers)


def _places(error: RequestValidationError) -> str:
    """What does not fit the schema and where; the values sent are not repeated."""
    text = "; ".join(f"{'.'.join(str(part) for part in e['loc'])}: {e['msg']}" for e in error.errors())
    return text.encode("utf-8", "backslashreplace").decode()  # a key of the body may hold what no answer can
