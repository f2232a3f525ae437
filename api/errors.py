"""
What clients see of an error: a status, and ``{"detail", "code"}`` to read and to program against, or
what `api.http.problems` makes of that.

Every error of `store.errors` gets its status here and nowhere else. What a client sent is not
repeated, and what went wrong inside is logged, never told.
"""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from math import ceil
from typing import Any, cast

import orjson
from fastapi import FastAPI, Request, Response, WebSocket
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.routing import Match
from starlette.websockets import WebSocketState

from api.http import problems
from api.http.languages import translated
from graph.factory import InvalidGraphError
from store.errors import (
    AuthenticationError,
    BadRequestError,
    ChangedError,
    ConflictError,
    EmbeddingError,
    Error,
    GoneError,
    InDoubtError,
    InvalidInputError,
    LimitedError,
    NotFoundError,
    PermissionDeniedError,
    QuotaError,
    RunFailedError,
    RunTimeoutError,
    StalledError,
    TooLargeError,
    TooManyAttemptsError,
    UnavailableError,
    UnreadableError,
    UnsupportedError,
    WrongTypeError,
)

#: The status of a class holds for those below it, unless they have their own.
STATUSES: dict[type[Error], HTTPStatus] = {
    AuthenticationError: HTTPStatus.UNAUTHORIZED,
    BadRequestError: HTTPStatus.BAD_REQUEST,
    ChangedError: HTTPStatus.PRECONDITION_FAILED,
    ConflictError: HTTPStatus.CONFLICT,
    EmbeddingError: HTTPStatus.BAD_GATEWAY,
    GoneError: HTTPStatus.GONE,
    # Official SDKs repeat 503 by themselves, and would make it twice.
    InDoubtError: HTTPStatus.CONFLICT,
    InvalidGraphError: HTTPStatus.FAILED_DEPENDENCY,
    InvalidInputError: HTTPStatus.UNPROCESSABLE_ENTITY,
    LimitedError: HTTPStatus.TOO_MANY_REQUESTS,
    NotFoundError: HTTPStatus.NOT_FOUND,
    PermissionDeniedError: HTTPStatus.FORBIDDEN,
    QuotaError: HTTPStatus.FORBIDDEN,
    RunFailedError: HTTPStatus.BAD_GATEWAY,
    RunTimeoutError: HTTPStatus.GATEWAY_TIMEOUT,
    StalledError: HTTPStatus.REQUEST_TIMEOUT,
    TooLargeError: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    TooManyAttemptsError: HTTPStatus.TOO_MANY_REQUESTS,
    UnavailableError: HTTPStatus.SERVICE_UNAVAILABLE,
    UnreadableError: HTTPStatus.INTERNAL_SERVER_ERROR,
    UnsupportedError: HTTPStatus.NOT_IMPLEMENTED,
    WrongTypeError: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    Error: HTTPStatus.INTERNAL_SERVER_ERROR,
}
RETRY_AFTER_SECONDS = 1

_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")

#: The pydantic error type of our own validators: their message is a whole sentence.
SENTENCE = "sentence"


class RefusedError(PermissionDeniedError):
    """
    A request that is refused with a status of its own: one that an author's code chose, or 421 of `KnownHosts`.

    Args:
        status: 400 or more; anything else is a fault of the author's code, and becomes 500.
        headers: Of the answer, such as ``WWW-Authenticate``.
    """

    def __init__(
        self, status: int, detail: str, *, headers: Mapping[str, str] | None = None
    ) -> None:
        is_refusal = 400 <= status <= 599
        self.status = status if is_refusal else HTTPStatus.INTERNAL_SERVER_ERROR.value
        self.headers = dict(headers or {}) if is_refusal else {}
        super().__init__(detail if is_refusal else "Internal Server Error", code=_code(self.status))


class BrokenOffError(Exception):
    """
    An answer that has begun cannot be completed here; its run goes on.

    The connection is dropped: after an answer that ends like a whole one no client comes back.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(message)
        #: Our own words, for the log.
        self.message = message


#: What a program is told of a status that is not of an error of ours.
_CODES = {
    401: AuthenticationError.default_code,
    403: PermissionDeniedError.default_code,
    404: NotFoundError.default_code,
    409: ConflictError.default_code,
    429: TooManyAttemptsError.default_code,
    500: "internal_error",
}


def _code(status: int) -> str:
    try:
        return _CODES.get(status) or HTTPStatus(status).phrase.lower().replace(" ", "_")
    except ValueError:
        return "refused"


def error_response(
    status: int, detail: str, code: str, *, headers: dict[str, str] | None = None
) -> Response:
    """The answer to a request that failed."""
    detail, language = translated(detail, code)
    headers = {**(headers or {}), **language}
    content, media_type = {"detail": detail, "code": code}, "application/json"
    if problems.is_wanted():
        content, media_type = problems.problem(int(status), detail, code), problems.MEDIA_TYPE
    return Response(orjson.dumps(content), int(status), headers, media_type=media_type)


def response_to(error: Error) -> Response:
    """The answer to a request that raised one of our errors."""
    if isinstance(error, RefusedError):
        return error_response(error.status, error.message, error.code, headers=error.headers)
    status = status_of(error)
    seconds = _retry_after(error, status)
    headers = {"Retry-After": str(seconds)} if seconds else None
    return error_response(status, error.message, error.code, headers=headers)


def _retry_after(error: Error, status: int) -> int:
    """In how many seconds a machine may ask again; 0 if it should not by itself."""
    if isinstance(error, LimitedError):
        return max(RETRY_AFTER_SECONDS, ceil(error.retry_in_seconds))
    return RETRY_AFTER_SECONDS if status == 503 else 0


def internal_error_response() -> Response:
    """The answer to a request that failed by a fault of ours; the log has the reason."""
    return error_response(500, "Internal Server Error", "internal_error")


def status_of(error: Error) -> int:
    """The status of one of our errors."""
    if isinstance(error, RefusedError):
        return error.status
    return next(STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES)


async def refuse(socket: WebSocket, error: Error) -> None:
    """
    Close a WebSocket for one of our errors: with its status beyond 4000.

    It is accepted first if it was not yet: a browser cannot read why one was not.
    """
    if socket.application_state == WebSocketState.CONNECTING:
        await socket.accept()
    # The protocol has room for 123 bytes.
    reason = translated(error.message, error.code)[0].encode()[:120].decode(errors="ignore")
    await socket.close(4000 + status_of(error), reason)


async def _on_error(connection: HTTPConnection, error: Exception) -> Response | None:
    assert isinstance(error, Error)
    if isinstance(connection, WebSocket):
        await refuse(connection, error)
        return None
    return response_to(error)


async def _on_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return error_response(422, invalid_text(error.errors()), InvalidInputError.default_code)


async def _on_http(request: Request, error: Exception) -> Response:
    """Routing's own errors: no such path, or not with this method."""
    assert isinstance(error, HTTPException)
    code = _code(error.status_code)
    headers = dict(error.headers) if error.headers else None
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED and headers and "Allow" in headers:
        headers["Allow"] = ", ".join(_methods(request))
    return error_response(error.status_code, str(error.detail), code, headers=headers)


def _methods(request: Request) -> list[str]:
    """Those that a path has: the route that says no knows but its own."""
    place = {"type": "http", "path": request.scope["path"], "headers": []}
    place["root_path"] = request.scope.get("root_path", "")
    return [
        method
        for method in _METHODS
        if any(
            route.matches({**place, "method": method})[0] is Match.FULL
            for route in request.app.routes
        )
    ]


def invalid_text(errors: Sequence[Any]) -> str:
    """The first three faults, a line each: where, and what is expected there."""
    lines = []
    for error in errors[:3]:
        if error["type"] == SENTENCE:
            lines.append(error["msg"])
            continue
        # The first part says "body", "query" or "path".
        place = ".".join(str(part) for part in error["loc"][1:])
        lines.append(f"{place or 'The request body'}: {error['msg']}")
    return "\n".join(lines)


def install(app: FastAPI) -> None:
    """Answer every error that a route raises on purpose."""
    # Starlette's type knows handlers of requests or of WebSockets; this one answers both.
    app.add_exception_handler(Error, cast("Any", _on_error))
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
