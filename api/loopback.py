"""
How a graph reaches its own server: `langgraph_sdk.get_client()` without a URL.

Nothing goes over a network. The SDK takes application and transport from `langgraph_api` if it can
import it: `install` puts modules of that name in place that lead here. Requests come from the event
loop of the graphs, or any other, and are served on the one of HTTP; their answers are streamed
back. They come from the server's own code, so nobody is asked who they are.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from contextvars import Context
from types import ModuleType
from typing import Any

import httpx
import structlog
from starlette.types import ASGIApp, Message, Scope

from api import sdk_cache
from store.errors import UnavailableError

log = structlog.stdlib.get_logger(__name__)

#: Set by nobody but this module: a client has no way to write into a scope. True for what the
#: server's own code asks.
_MARK = "threadwell.loopback"

#: Parts of an answer that may wait for whoever reads it.
MAX_WAITING = 64


def is_loopback(scope: Scope) -> bool:
    """Whether a request was made by a graph of this process."""
    return scope.get(_MARK) is True


def is_in_process(scope: Scope) -> bool:
    """Whether a request came over no network: a graph's, or a webhook's of this server."""
    return _MARK in scope


class Loopback:
    """
    Serves requests from any event loop on the one that it was made on.

    Args:
        app: What serves them.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._home = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()

    async def request(self, request: httpx.Request, *, is_trusted: bool = True) -> httpx.Response:
        """
        Serve a request; its answer is returned as soon as it has begun.

        Args:
            is_trusted: The server's own code asks: nobody is asked who that is.

        Raises:
            httpx.ConnectError: The server is gone.
            httpx.RemoteProtocolError: It dropped the request without an answer.
        """
        scope = {**_scope(request), _MARK: is_trusted}
        exchange = _Exchange(scope, await request.aread(), self._home)
        try:
            # In a context of its own: the caller's has the run that it is in, and its callbacks.
            self._home.call_soon_threadsafe(self._begin, exchange, context=Context())
        except RuntimeError as error:
            raise httpx.ConnectError("the server has stopped", request=request) from error
        try:
            start = await exchange.next()
        except BaseException:
            exchange.close()
            raise
        if start is None:
            raise httpx.RemoteProtocolError("the server did not answer", request=request)
        return httpx.Response(start["status"], headers=start["headers"], stream=_Body(exchange))

    def _begin(self, exchange: "_Exchange") -> None:
        task = self._home.create_task(exchange.serve(self._app), name="loopback request")
        self._tasks.add(task)
        task.add_done_callback(self._end)

    def _end(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            # As of a connection: who asked sees it end.
            log.error("loopback request failed", exc_info=error)


class Transport(httpx.AsyncBaseTransport):
    """
    What the SDK makes of a client without a URL, at any time: before there is a server, too.

    Args:
        app: The SDK's idea of the server; the one that runs is used.
        root_path: Of no use here.
    """

    def __init__(self, app: Any = None, *, root_path: str = "") -> None:
        self.app = app
        self.root_path = root_path

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Serve a request of the client's."""
        if _Running.loopback is None:
            raise httpx.ConnectError("no server runs in this process", request=request)
        return await _Running.loopback.request(request)


class _Running:
    """The server of this process; a client knows no other."""

    loopback: Loopback | None = None


async def post(path: str, headers: Mapping[str, str], body: bytes) -> int:
    """
    Send something to a path of this server, as somebody from outside would.

    Whoever chose the path may be anybody: so the request is authenticated like any other.

    Returns:
        The status of the answer.

    Raises:
        UnavailableError: No server runs in this process, or it dropped the request.
    """
    if _Running.loopback is None:
        raise UnavailableError("No server runs in this process")
    request = httpx.Request("POST", f"http://localhost{path}", headers=dict(headers), content=body)
    try:
        answer = await _Running.loopback.request(request, is_trusted=False)
    except httpx.TransportError as error:
        raise UnavailableError("The server dropped the request") from error
    await answer.aclose()
    return answer.status_code


def install() -> None:
    """Let the SDK find this server; to be called before a graph is imported."""
    cache = ("cache_get", "cache_set", "swr", "SWRResult")
    for name, attributes in (
        ("langgraph_api", {}),
        ("langgraph_api.server", {"app": None}),
        ("langgraph_api.asgi_transport", {"ASGITransport": Transport}),
        ("langgraph_api.cache", {name: getattr(sdk_cache, name) for name in cache}),
    ):
        module = ModuleType(name, __doc__)
        vars(module).update(attributes)
        sys.modules[name] = module
        if "." in name:
            setattr(sys.modules["langgraph_api"], name.partition(".")[2], module)


@contextmanager
def serving(app: ASGIApp) -> Iterator[None]:
    """Serve the graphs of this process with an application, on the running event loop."""
    before, _Running.loopback = _Running.loopback, Loopback(app)
    try:
        yield
    finally:
        _Running.loopback = before


def _scope(request: httpx.Request) -> Scope:
    path, _, query = request.url.raw_path.partition(b"?")
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": request.method,
        "scheme": request.url.scheme,
        "path": request.url.path,
        "raw_path": path,
        "query_string": query,
        "root_path": "",
        "headers": [(name.lower(), value) for name, value in request.headers.raw],
        "server": (request.url.host, request.url.port),
        "client": None,
    }


class _Exchange:
    """One request and its answer, between the loop that asks and the loop that serves."""

    def __init__(self, scope: Scope, body: bytes, home: asyncio.AbstractEventLoop) -> None:
        self._scope = scope
        self._body: bytes | None = body
        self._home = home
        self._there = asyncio.get_running_loop()
        self._waiting: asyncio.Queue[Message | None] = asyncio.Queue(MAX_WAITING)
        self._left = asyncio.Event()  # used on the loop that serves
        self._closed = False

    # On the loop that serves

    async def serve(self, app: ASGIApp) -> None:
        try:
            await app(self._scope, self._receive, self._send)
        finally:
            # Cut off or complete: whoever reads is told either way.
            await self._hand_over(None)

    async def _receive(self) -> Message:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        await self._hand_over(message)

    async def _hand_over(self, message: Message | None) -> None:
        """Wait for room, so that an answer is not made faster than it is read."""
        if self._closed:
            return
        handing = self._waiting.put(message)
        try:
            handed = asyncio.run_coroutine_threadsafe(handing, self._there)
        except RuntimeError:  # the loop that asked has ended
            handing.close()
            self._closed = True
            self._left.set()
            return
        await asyncio.wrap_future(handed)

    # On the loop that asks

    async def next(self) -> Message | None:
        """The next message of the answer; None if there is no more."""
        return await self._waiting.get()

    def close(self) -> None:
        """Read no more; the server is told that the client has left."""
        self._closed = True
        while not self._waiting.empty():
            # Nobody waits for room any longer.
            self._waiting.get_nowait()
        try:
            self._home.call_soon_threadsafe(self._left.set)
        except RuntimeError:  # the server has ended
            return


class _Body(httpx.AsyncByteStream):
    """The body of an answer, as it comes."""

    def __init__(self, exchange: _Exchange) -> None:
        self._exchange = exchange

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            message = await self._exchange.next()
            if message is None:
                raise httpx.RemoteProtocolError("the answer was broken off")
            if message["type"] == "http.response.body":
                if message.get("body"):
                    yield message["body"]
                if not message.get("more_body"):
                    return

    async def aclose(self) -> None:
        self._exchange.close()
