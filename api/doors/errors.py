"""Errors as clients of OpenAI read them."""

from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError

from api.errors import invalid_text, response_to, status_of
from api.http.bodies import JsonRoute
from api.http.languages import translated
from api.http.responses import json_response
from store.errors import Error, InvalidInputError
from store.models import JsonObject

_TYPES = {
    HTTPStatus.UNAUTHORIZED: "authentication_error",
    HTTPStatus.FORBIDDEN: "permission_error",
    HTTPStatus.NOT_FOUND: "not_found_error",
    HTTPStatus.CONFLICT: "conflict_error",
    HTTPStatus.TOO_MANY_REQUESTS: "rate_limit_error",
}


def error_json(
    message: str, code: str | None, *, type_: str, param: str | None = None
) -> JsonObject:
    """An error, in a body or in a stream."""
    return {"error": {"message": message, "type": type_, "param": param, "code": code}}


def openai_response(error: Error, *, param: str | None = None) -> Response:
    """The answer to a request that raised one of our errors; 422 is what OpenAI calls 400."""
    found = response_to(error)
    status = status_of(error)
    if status == HTTPStatus.UNPROCESSABLE_ENTITY:
        status = HTTPStatus.BAD_REQUEST
    kind = "server_error" if status >= 500 else "invalid_request_error"
    detail, language = translated(error.message, error.code)
    content = error_json(
        detail, error.code, type_=_TYPES.get(HTTPStatus(status), kind), param=param
    )
    answer = json_response(content, headers=language, status_code=status)
    for name in ("retry-after", "www-authenticate"):
        if name in found.headers:
            answer.headers[name] = found.headers[name]
    return answer


class OpenAIRoute(JsonRoute):
    """A route that answers errors as OpenAI does; use it as `route_class` of a router."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Answer what the route raises on purpose."""
        handle = super().get_route_handler()

        async def handle_openai(request: Request) -> Response:
            try:
                return await handle(request)
            except RequestValidationError as exc:
                found = exc.errors()
                place = ".".join(str(part) for part in found[0]["loc"][1:]) if found else ""
                error = InvalidInputError(invalid_text(found))
                return openai_response(error, param=place or None)
            except Error as exc:
                return openai_response(exc)

        return handle_openai
