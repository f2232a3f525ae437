"""
Request bodies: JSON, whatever the content type says.

Studio sends its JSON as ``text/plain``, and curl as a form.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import fields
from typing import Any, get_type_hints

import orjson
from fastapi import Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.params import Body
from fastapi.routing import APIRoute
from pydantic import TypeAdapter, ValidationError
from starlette.types import Message

from api.http.addresses import address_of
from api.http.held import SMALL_BYTES, Hold
from store.errors import InvalidInputError, StalledError, TooLargeError, WrongTypeError
from store.json import without_nul

#: What says nothing of what a function is called with, and all that may be asked for to be `Arguments`.
_NOTHING = {"name", "call", "path", "scope", "use_cache"}
_OF_ROUTE = {"path_params", "body_params", "dependencies"}
_OF_DEPENDENCY = {"http_connection_param_name"}

#: Deeper than this nothing that is stored could be sent back whole.
MAX_DEPTH = 100
#: Commas and opening brackets, in texts too: so many values, at the most, are made of a body. Each takes up
#: to a hundred times the memory of a byte, and all of them the event loop for a fifth of a second.
MAX_VALUES = 1_000_000
#: A body with more faults is refused without naming them: naming takes five times as long as finding them.
MAX_FAULTS = 100
#: A body of fewer bytes has too few faults to take long.
SHORT_BYTES = 16 * 1024


def bounded(request: Request) -> Request:
    """
    The request, whose body is to be read whole: one beyond `HTTP_MAX_JSON_BODY_BYTES` is not.

    Reading it raises `TooLargeError` then, `OverloadedError` if there is no room for it, and `StalledError` if it
    stalls.

    Raises:
        WrongTypeError: `authenticate` wanted to see it, and did not because it says that it is a file.
    """
    if getattr(request.state, "body_is_unseen", False):
        raise WrongTypeError("This route reads JSON, and the Content-Type says that a file is sent")
    hold: Hold = request.state.hold
    most = hold.largest
    given = request.headers.get("content-length", "")
    announced = int(given) if given.isdecimal() else 0
    received, is_read = 0, False

    async def require_room() -> None:
        size = max(received, announced)
        if size > most:
            raise TooLargeError(f"The request body is larger than {most} bytes")
        if size > SMALL_BYTES and not hold.is_taken:
            # One that does not say how large it gets may get as large as any.
            await hold.take(announced or most, _sender(request))

    async def receive() -> Message:
        nonlocal received, is_read
        if is_read:
            # Whether the client has left, which nothing of this is about.
            return await request.receive()
        # Before it is sent, if it is announced.
        await require_room()
        message = await _next(request, hold, received)
        received += len(message.get("body", b""))
        await require_room()
        is_read = not message.get("more_body", False)
        return message

    return Request(request.scope, receive)


async def _next(request: Request, hold: Hold, received: int) -> Message:
    try:
        async with asyncio.timeout_at(hold.next_is_due(received)):
            return await request.receive()
    except TimeoutError:
        # What it has room for others wait for.
        raise StalledError("The request body has stalled") from None


def _sender(request: Request) -> str:
    """Whose part a body counts for: the caller's, or the address's while nobody is known."""
    caller = getattr(request.state, "caller", None)
    return getattr(caller, "identity", "") or f"address {address_of(request)}"


def parse(raw: bytes) -> Any:
    """
    Decode a JSON body; NUL, which PostgreSQL cannot store, becomes U+FFFD.

    Raises:
        InvalidInputError: It is no JSON, or nested beyond `MAX_DEPTH`.
        TooLargeError: It may have more than `MAX_VALUES` values.
    """
    opened = raw.count(b"[") + raw.count(b"{")
    if opened + raw.count(b",") > MAX_VALUES:
        raise TooLargeError(f"The request body has more than {MAX_VALUES} commas and brackets")
    try:
        content = orjson.loads(without_nul(raw))
    except orjson.JSONDecodeError as exc:
        raise InvalidInputError("Invalid JSON in request body", code="invalid_json") from exc
    if opened > MAX_DEPTH and _is_deep(content):
        raise InvalidInputError(f"The request body is nested deeper than {MAX_DEPTH} levels")
    return content


def described(*names: str) -> dict[str, Any]:
    """What the documentation says of a body whose protocol is written down elsewhere."""
    schema = {"type": "object", "properties": {name: {} for name in names}}
    return {"requestBody": {"content": {"application/json": {"schema": schema}}}}


def _is_deep(content: Any) -> bool:
    level = [content] if isinstance(content, dict | list) else []
    for _ in range(MAX_DEPTH):
        # JSON has no other classes, and `isinstance` takes twice as long.
        level = [
            child
            for item in level
            for child in (item.values() if type(item) is dict else item)
            if type(child) is dict or type(child) is list
        ]
        if not level:
            return False
    return any(level)


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


class Arguments:
    """
    What a route is called with that asks for its path, its body, and what the connection has.

    FastAPI looks for arguments in query, headers and cookies too, once for each dependency, which takes
    as long as it takes to start a run. What is not right in a request is for FastAPI to tell.
    """

    def __init__(self, dependant: Dependant) -> None:
        self._dependencies = {
            found.name: found.call for found in dependant.dependencies if found.name and found.call
        }
        path, (body,) = dependant.path_params, dependant.body_params
        hints = get_type_hints(dependant.call, include_extras=True)
        self._path = {param.name: TypeAdapter[Any](hints[param.name]) for param in path}
        self._body_name, self._body = body.name, TypeAdapter[Any](hints[body.name])

    @classmethod
    def of(cls, dependant: Dependant) -> "Arguments | None":
        """None for a route that asks for more."""
        is_plain = _asks_for(dependant) <= _OF_ROUTE and all(
            found.name and _asks_for(found) == _OF_DEPENDENCY for found in dependant.dependencies
        )
        return cls(dependant) if is_plain and _is_whole(dependant) else None

    async def read(self, request: Request, body: Any) -> Mapping[str, Any] | None:
        """The arguments; None if something is not right."""
        if body is None:
            return None
        try:
            values = {
                name: kind.validate_python(request.path_params[name])
                for name, kind in self._path.items()
            }
            values[self._body_name] = self._body.validate_python(body)
        except ValidationError as exc:
            _require_few_faults(exc)
            return None
        for name, call in self._dependencies.items():
            values[name] = await call(request)
        return values


def _require_few_faults(error: ValidationError) -> None:
    if error.error_count() > MAX_FAULTS:
        raise InvalidInputError(f"More than {MAX_FAULTS} values of the request body are invalid")


def _body_of(dependant: Dependant) -> TypeAdapter[Any] | None:
    """What the body of a route is, if it is one thing."""
    if len(dependant.body_params) != 1 or dependant.call is None:
        return None
    hints = get_type_hints(dependant.call, include_extras=True)
    return TypeAdapter(hints[dependant.body_params[0].name])


def _asks_for(dependant: Dependant) -> set[str]:
    return {found.name for found in fields(dependant) if getattr(dependant, found.name)} - _NOTHING


def _is_whole(dependant: Dependant) -> bool:
    """Whether its body is all of what is sent, and its answer what is sent back."""
    bodies, answer = dependant.body_params, get_type_hints(dependant.call)["return"]
    return (
        len(bodies) == 1
        and type(bodies[0].field_info) is Body
        and not bodies[0].field_info.embed
        and isinstance(answer, type)
        and issubclass(answer, Response)
    )


class JsonRoute(APIRoute):
    """A route whose body parameter is read as JSON; use it as `route_class` of a router."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Decode the body before FastAPI looks at it."""
        handle = super().get_route_handler()
        if self.body_field is None:
            return handle
        required = self.body_field.field_info.is_required()
        arguments = Arguments.of(self.dependant)
        checked = _body_of(self.dependant) if arguments is None else None

        async def handle_json(request: Request) -> Response:
            request = bounded(request)
            raw = await request.body()
            if not raw and not required:
                return await handle(request)
            content = parse(raw)
            if arguments and (values := await arguments.read(request, content)) is not None:
                response: Response = await self.endpoint(**values)
                return response
            if checked is not None and len(raw) > SHORT_BYTES:
                try:
                    checked.validate_python(content)
                except ValidationError as exc:
                    _require_few_faults(exc)
            return await handle(_ParsedRequest(request, content))

        return handle_json
