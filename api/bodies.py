"""
Request bodies: JSON, whatever the content type says.

Studio sends its JSON as ``text/plain``, and curl as a form.
"""

from collections.abc import Callable, Coroutine
from typing import Any

import orjson
from fastapi import Request, Response
from fastapi.routing import APIRoute

from store.errors import InvalidInputError
from store.json import without_nul

#: Deeper than this nothing that is stored could be sent back whole.
MAX_DEPTH = 100


def parse(raw: bytes) -> Any:
    """
    Decode a JSON body; NUL, which PostgreSQL cannot store, becomes U+FFFD.

    Raises:
        InvalidInputError: It is no JSON, or nested beyond `MAX_DEPTH`.
    """
    try:
        content = orjson.loads(without_nul(raw))
    except orjson.JSONDecodeError as exc:
        raise InvalidInputError("Invalid JSON in request body", code="invalid_json") from exc
    if raw.count(b"[") + raw.count(b"{") > MAX_DEPTH and _is_deep(content):
        raise InvalidInputError(f"The request body is nested deeper than {MAX_DEPTH} levels")
    return content


def described(*names: str) -> dict[str, Any]:
    """What the documentation says of a body whose protocol is written down elsewhere."""
    schema = {"type": "object", "properties": {name: {} for name in names}}
    return {"requestBody": {"content": {"application/json": {"schema": schema}}}}


def _is_deep(content: Any) -> bool:
    level = [content]
    for _ in range(MAX_DEPTH + 1):
        level = [
            child
            for item in level
            if isinstance(item, dict | list)
            for child in (item.values() if isinstance(item, dict) else item)
        ]
        if not level:
            return False
    return True


class _ParsedRequest(Request):
    """A request whose body has been decoded."""

    def __init__(self, request: Request, content: Any) -> None:
        headers = [header for header in request.scope["headers"] if header[0] != b"content-type"]
        headers.append((b"content-type", b"application/json"))
        super().__init__({**request.scope, "headers": headers}, request.receive)
        # Anything but b"" makes FastAPI ask for `json()`, also when the body is `null`.
        self._body = b"parsed"
        self._content = content

    async def json(self) -> Any:
        return self._content


class JsonRoute(APIRoute):
    """A route whose body parameter is read as JSON; use it as `route_class` of a router."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Decode the body before FastAPI looks at it."""
        handle = super().get_route_handler()
        if self.body_field is None:
            return handle
        required = self.body_field.field_info.is_required()

        async def handle_json(request: Request) -> Response:
            raw = await request.body()
            if not raw and not required:
                return await handle(request)
            return await handle(_ParsedRequest(request, parse(raw)))

        return handle_json
