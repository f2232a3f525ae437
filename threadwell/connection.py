"""
How code that is no route reaches the sessions: over HTTP, in the server's process, or without one.

One event loop in a thread of its own makes every request, so that the same connection serves
synchronous and asynchronous code, on whatever loop it is.
"""

import asyncio
import atexit
import importlib
import os
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any, TypeVar
from weakref import WeakSet

import httpx

from threadwell import own_packages

Result = TypeVar("Result")

#: How long an answer may take: longer than a server lets anybody wait for a run's end.
TIMEOUT_SECONDS = 330.0
#: How long a connection may take to be opened, and to be closed.
OPEN_SECONDS = 120.0
#: Where a server in this process is, in the URLs of requests to it.
_HERE = "http://threadwell"

#: Opens what requests go through.
Opener = Callable[[], AbstractAsyncContextManager[httpx.AsyncClient]]


class RequestError(Exception):
    """
    A server's refusal.

    Attributes:
        status: As of HTTP; 0 if there was no answer.
        code: What happened, for a program.
    """

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code


class Connection:
    """
    A way to the sessions of a server; any thread and any event loop may use it, and a process that
    was forked opens it anew. Close it when done.

    Args:
        url: Of a server; None for the one in whose process this is.
        headers: Of each request, such as ``Authorization``. In a server's own process nobody is
            asked who they are.
    """

    def __init__(self, url: str | None = None, *, headers: Mapping[str, str] | None = None) -> None:
        self._open: Opener = lambda: _client(url, headers)
        self._is_inside = url is None
        self._lock = threading.Lock()
        self._loop: _Loop | None = None
        _connections.add(self)

    @classmethod
    def through(cls, opener: Opener) -> "Connection":
        """One whose requests go through a client that is opened on its own event loop."""
        connection = cls()
        connection._open, connection._is_inside = opener, False
        return connection

    def call(self, method: str, path: str, **request: Any) -> Any:
        """
        Make a request and return the JSON of its answer; None if it has none.

        Raises:
            RequestError: The server refuses it, or cannot be reached.
            RuntimeError: This is the server's own process, and the thread has an event loop, which
                the answer may need: await `acall` there.
        """
        if self._is_inside and _has_event_loop():
            raise RuntimeError(
                "Inside the server a thread with an event loop cannot wait for it: use the "
                "asynchronous methods (ainvoke, aget_messages, …)"
            )
        return self._running().call(lambda client: _request(client, method, path, request))

    async def acall(self, method: str, path: str, **request: Any) -> Any:
        """
        Make a request and return the JSON of its answer; None if it has none.

        Raises:
            RequestError: The server refuses it, or cannot be reached.
        """
        loop = await asyncio.to_thread(self._running)
        return await loop.acall(lambda client: _request(client, method, path, request))

    def close(self) -> None:
        """Close what is open; the next request opens it again."""
        with self._lock:
            loop, self._loop = self._loop, None
        if loop is not None:
            loop.close()

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _running(self) -> "_Loop":
        with self._lock:
            if self._loop is None:
                self._loop = _Loop(self._open)
            return self._loop

    def _leave(self) -> None:
        """Leave what is open to the process that this one was forked from, whose thread it needs."""
        self._lock = threading.Lock()
        if self._loop is not None:
            # Kept, so that nothing is closed that is not ours.
            _left.append(self._loop)
            self._loop = None


_connections: WeakSet[Connection] = WeakSet()
_left: list["_Loop"] = []


def _forked() -> None:
    for connection in _connections:
        connection._leave()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


class _Default:
    connection = Connection()


def use(connection: Connection) -> None:
    """Let everything that is not told another use this connection, in the whole process."""
    _Default.connection = connection


def default() -> Connection:
    """The connection that `use` named last; at first, the server in whose process this is."""
    return _Default.connection


class _Loop:
    """An event loop in a thread, with a client that is opened and closed on it."""

    def __init__(self, opener: Opener) -> None:
        self._opener = opener
        self._loop = asyncio.new_event_loop()
        self._closing = asyncio.Event()
        self._ready: asyncio.Future[httpx.AsyncClient] = self._loop.create_future()
        self._opened = threading.Event()
        self._thread = threading.Thread(target=self._main, name="threadwell", daemon=True)
        self._thread.start()
        self._opened.wait(OPEN_SECONDS)
        if not self._opened.is_set():
            raise RequestError(0, "unreachable", "The connection was not opened in time")
        if failure := self._ready.exception():
            self._thread.join()
            raise failure
        # A process that ends without closing leaves nothing half open.
        atexit.register(self.close)

    def call(self, work: Callable[[httpx.AsyncClient], Coroutine[Any, Any, Result]]) -> Result:
        return asyncio.run_coroutine_threadsafe(work(self._ready.result()), self._loop).result()

    async def acall(
        self, work: Callable[[httpx.AsyncClient], Coroutine[Any, Any, Result]]
    ) -> Result:
        return await asyncio.wrap_future(
            asyncio.run_coroutine_threadsafe(work(self._ready.result()), self._loop)
        )

    def close(self) -> None:
        atexit.unregister(self.close)
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._closing.set)
            self._thread.join(OPEN_SECONDS)

    def _main(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._live())

    async def _live(self) -> None:
        async with AsyncExitStack() as stack:
            try:
                self._ready.set_result(await stack.enter_async_context(self._opener()))
            except Exception as exc:  # noqa: BLE001 - whoever asked for it is told
                self._ready.set_exception(exc)
                return
            finally:
                self._opened.set()
            await self._closing.wait()


@asynccontextmanager
async def _client(
    url: str | None, headers: Mapping[str, str] | None
) -> AsyncIterator[httpx.AsyncClient]:
    transport = _inside() if url is None else None
    async with httpx.AsyncClient(
        base_url=url or _HERE, headers=headers, transport=transport, timeout=TIMEOUT_SECONDS
    ) as client:
        yield client


def _inside() -> httpx.AsyncBaseTransport:
    # Not at the top: an application with a package `api` of its own reaches a server by URL.
    own_packages.require("api")
    transport: httpx.AsyncBaseTransport = importlib.import_module("api.loopback").Transport()
    return transport


async def _request(
    client: httpx.AsyncClient, method: str, path: str, request: Mapping[str, Any]
) -> Any:
    try:
        answer = await client.request(method, path, **request)
    except httpx.HTTPError as exc:
        reason = str(exc) or type(exc).__name__
        raise RequestError(0, "unreachable", f"The server cannot be reached: {reason}") from exc
    if answer.is_success:
        return answer.json() if answer.content else None
    try:
        told = answer.json()
        raise RequestError(answer.status_code, told["code"], told["detail"])
    except (KeyError, TypeError, ValueError):  # an answer of something in between
        raise RequestError(
            answer.status_code, "refused", f"The server answers {answer.status_code}"
        ) from None


def _has_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
