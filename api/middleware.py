"""What every request passes before its route. Plain ASGI, so that streams are never buffered."""

import base64
import re
import time

import orjson
import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uuid_utils import uuid4

from api.errors import BrokenOffError, error_response, internal_error_response, response_to
from api.http.headers import HeaderFilter
from api.http.held import HeldBodies, Hold
from api.identity.auth import METRICS_PATH, OPEN_PATHS, is_late
from api.loopback import is_in_process
from api.observability.http_meter import HttpMeter, is_event_stream
from api.processes.sockets import allow_large_frames
from store.errors import Error, InvalidInputError, TooLargeError, UnsupportedError

log = structlog.stdlib.get_logger(__name__)

_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
#: What is served outside a prefix too: what probes and readers ask for.
OUTSIDE = OPEN_PATHS | {METRICS_PATH}
#: By which a client of the official server names the keys that it wants.
CONTEXT_HEADER = b"x-encryption-context"
#: What is a key in itself.
_TOKEN = re.compile(r"(/api/shares/)[^/]+")


def _shown(path: str) -> str:
    """A path without what nobody is to find in a log."""
    return _TOKEN.sub(r"\1…", path)


class RequestLog:
    """
    Gives each request its id and, at debug, a line in the log.

    The caller's ``x-request-id`` is kept if it can be one; it is `request.state.request_id`, the
    answer carries it, and so does every line logged meanwhile.

    Args:
        app: What is behind it.
        headers: Which of the request's headers those lines have too.
        meter: Counts them.
        prefix: The path below which everything is served.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        headers: HeaderFilter,
        meter: HttpMeter | None = None,
        prefix: str = "",
    ) -> None:
        self.app = app
        self.headers = headers
        self.meter = meter or HttpMeter()
        self.prefix = prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else str(uuid4())
        scope.setdefault("state", {})["request_id"] = request_id
        if scope["type"] == "websocket":
            with self.meter.under_way("websocket"):
                await self.app(scope, receive, send)
            return
        await self._serve(scope, receive, send, request_id, headers)

    async def _serve(
        self, scope: Scope, receive: Receive, send: Send, request_id: str, headers: Headers
    ) -> None:
        status, is_stream = 0, False
        started = time.perf_counter()

        async def send_named(message: Message) -> None:
            nonlocal status, is_stream
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = request_id
                if is_event_stream(message["headers"]):
                    is_stream = True
                    self.meter.open["request"] -= 1
                    self.meter.open["stream"] += 1
            await send(message)

        self.meter.open["request"] += 1
        shown = {"headers": found} if (found := self.headers.of(headers)) else {}
        with structlog.contextvars.bound_contextvars(request_id=request_id, **shown):
            try:
                await self.app(scope, receive, send_named)
            finally:
                seconds = time.perf_counter() - started
                self.meter.open["stream" if is_stream else "request"] -= 1
                path = scope["path"].removeprefix(self.prefix)
                self.meter.end(path, scope["method"], status, seconds, is_stream=is_stream)
                log.debug(
                    "request",
                    method=scope["method"],
                    path=_shown(scope["path"]),
                    status=status,
                    seconds=round(seconds, 4),
                )


class MountPrefix:
    """
    Serves everything below a path; outside it only what probes and readers ask for.

    Answers name no prefix: clients append the paths they are given to a URL that has it.

    Args:
        app: What is behind it.
        prefix: Begins with a slash and does not end with one.
    """

    def __init__(self, app: ASGIApp, *, prefix: str) -> None:
        self.app = app
        self.prefix = prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        path = scope["path"]
        if path == self.prefix:
            path += "/"
        if path.startswith(f"{self.prefix}/"):
            scope = {**scope, "path": path, "root_path": scope.get("root_path", "") + self.prefix}
        elif path not in OUTSIDE and not is_in_process(scope):
            await self._refuse(scope, receive, send)
            return
        await self.app(scope, receive, send)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})
        else:
            await error_response(404, "Not Found", "not_found")(scope, receive, send)


class WithoutSlash:
    """Leads MCP clients that end its path with a slash to the one without: 307, so with their body."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        root = scope.get("root_path", "")
        if scope["type"] != "http" or scope["path"].removeprefix(root) != "/mcp/":
            await self.app(scope, receive, send)
            return
        query = f"?{scope['query_string'].decode('latin-1')}" if scope["query_string"] else ""
        headers = {"Location": f"{root}/mcp{query}"}
        await Response(status_code=307, headers=headers)(scope, receive, send)


class LastResort:
    """Answers 500 to what no handler knows, and logs it with its traceback."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        started = False

        async def send_noting(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self.app(scope, receive, send_noting)
        except ClientDisconnect:
            # In the middle of its body: nobody is left to be answered.
            log.debug("client left", path=_shown(scope["path"]))
        except BrokenOffError as exc:
            # Not completed: the server drops the connection.
            log.info("answer broken off", path=_shown(scope["path"]), reason=exc.message)
        except Exception:
            if scope["type"] != "http" or started:
                # Too late to say anything: the server logs it and drops the connection.
                raise
            log.exception("request failed", method=scope["method"], path=_shown(scope["path"]))
            await internal_error_response()(scope, receive, send)


class WithoutContext:
    """
    Refuses what asks to be encrypted by the keys of a context: 501, and 422 if it is none.

    Let through, it would be encrypted by everybody's keys, or by none.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        given = next((v for name, v in scope.get("headers", ()) if name == CONTEXT_HEADER), None)
        if given is None:
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})
        else:
            await response_to(_no_context(given))(scope, receive, send)


def _no_context(given: bytes) -> Error:
    try:
        context = orjson.loads(base64.b64decode(given, validate=True))
    except ValueError:
        context = None
    if not isinstance(context, dict):
        return InvalidInputError("X-Encryption-Context is Base64 of a JSON object")
    return UnsupportedError(
        "X-Encryption-Context is not supported: everything is encrypted by the keys of the server"
    )


class BodyLimit:
    """
    Refuses bodies that are too large, announced or not, with 413.

    What a request holds of `held`, as `bodies.bounded` counts it, is given back when its answer begins.

    Args:
        app: What is behind it.
        max_body_bytes: The largest body that is let through.
        max_json_bytes: The largest that is read whole.
        held: What bodies that are read whole are counted in. What graphs ask their own server is not.
    """

    def __init__(
        self, app: ASGIApp, *, max_body_bytes: int, max_json_bytes: int, held: HeldBodies
    ) -> None:
        self.app = app
        self.max_body_bytes = max_body_bytes
        self.max_json_bytes = max_json_bytes
        self.held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            if not is_late(scope):
                allow_large_frames(scope)
            await self.app(scope, receive, send)
            return
        announced = Headers(scope=scope).get("content-length", "0")
        if not announced.isdecimal() or int(announced) > self.max_body_bytes:
            await response_to(self._too_large())(scope, receive, send)
            return
        hold = Hold(None if is_in_process(scope) else self.held, largest=self.max_json_bytes)
        scope.setdefault("state", {})["hold"] = hold
        try:
            await self._let_through(scope, receive, send, hold)
        finally:
            hold.give_back()

    async def _let_through(self, scope: Scope, receive: Receive, send: Send, hold: Hold) -> None:
        received, refused = 0, False

        async def receive_counting() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.max_body_bytes:
                raise self._too_large()
            return message

        async def send_or_refuse(message: Message) -> None:
            """Answer in its stead: an application of the user's takes our error for a fault."""
            nonlocal refused
            hold.give_back()
            too_large = received > self.max_body_bytes
            if too_large and message["type"] == "http.response.start":
                refused = True
                await response_to(self._too_large())(scope, receive, send)
            if not refused:
                await send(message)

        await self.app(scope, receive_counting, send_or_refuse)

    def _too_large(self) -> TooLargeError:
        return TooLargeError(f"The request body is larger than {self.max_body_bytes} bytes")
