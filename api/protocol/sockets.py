"""What every WebSocket here is: commands come in frames of JSON, answers go."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

import structlog
from fastapi import WebSocket, WebSocketDisconnect

from api import limits
from api.errors import BrokenOffError, refuse
from api.http.bodies import parse
from api.http.languages import translated
from api.identity import auth
from api.protocol.commands import CommandError, envelope, failure
from api.settings import Settings
from graph.encode import dumps
from store.errors import Error, TooLargeError
from store.models import JsonObject

log = structlog.get_logger(__name__)

#: Close codes: another process goes on with this; what is behind this failed.
GOES_ON, FAILED = 1012, 1011


class CommandSocket(ABC):
    """
    One client's WebSocket, which is accepted: answers its commands one by one.

    It is over when the client has left, or when something that was begun by `begin` failed.

    Args:
        settings: Say how long a command may be, and how often it is looked who sends them.
    """

    def __init__(self, socket: WebSocket, *, settings: Settings) -> None:
        self._socket = socket
        self._max_bytes = settings.request_body_max_bytes
        self._caller_look_seconds = settings.caller_look_seconds
        self._tasks: set[asyncio.Task[None]] = set()
        self._over: asyncio.Future[BaseException | None] = (
            asyncio.get_running_loop().create_future()
        )

    async def run(self) -> None:
        """Serve it until it is closed, by either side."""
        listening = self.begin(self._listen(), "socket")
        listening.add_done_callback(self._has_left)
        self.begin(self._ask_again(), "socket's caller")
        try:
            await self._over
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._end(self._over.result())

    def begin(self, work: Coroutine[Any, Any, None], name: str) -> "asyncio.Task[None]":
        """Do something beside, for as long as the socket is open; what it raises ends the socket."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._stopped)
        return task

    @abstractmethod
    async def answer(self, number: int, method: str, params: JsonObject) -> JsonObject | None:
        """
        Do what a command says; its answer, unless it has been sent.

        Raises:
            CommandError: It is refused, with a code of the protocol.
            Error: It is refused as a request would be.
        """

    async def send(self, message: JsonObject) -> None:
        """Send an answer."""
        await self._socket.send_text(dumps(message).decode())

    def code(self, error: Error) -> str:
        """What an error is to a client of this socket."""
        return error.code

    def _stopped(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() and not self._over.done():
            self._over.set_result(task.exception())

    def _has_left(self, task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and not self._over.done():
            self._over.set_result(None)

    async def _end(self, error: BaseException | None) -> None:
        """Close it for what ended it, so that the client knows whether to come back."""
        if error is None or isinstance(error, WebSocketDisconnect):
            return
        with suppress(RuntimeError, WebSocketDisconnect):  # the client has left meanwhile
            if isinstance(error, BrokenOffError):
                await self._socket.close(GOES_ON, "This is followed by another process")
            elif isinstance(error, Error):
                await refuse(self._socket, error)
            else:
                log.error("a socket failed", exc_info=error)
                await self._socket.close(FAILED, "Internal error")

    async def _ask_again(self) -> None:
        """See from time to time that whose socket it is would still be let in."""
        caller = self._socket.scope.get("state", {}).get("caller")
        while isinstance(caller, auth.Caller) and caller.again is not None:
            await asyncio.sleep(self._caller_look_seconds)
            await caller.require_still()

    async def _listen(self) -> None:
        with suppress(WebSocketDisconnect):
            while (raw := await received(self._socket)) is not None:
                await self._heed(raw)

    async def _heed(self, raw: bytes) -> None:
        number: int | None = None
        try:
            if len(raw) > self._max_bytes:
                raise TooLargeError(f"A command may have {self._max_bytes} bytes at the most")
            number, method, params = envelope(parse(raw))
            await limits.again()
            answer = await self.answer(number, method, params)
        except CommandError as exc:
            answer = failure(number, exc.code, str(exc))
        except Error as exc:
            answer = failure(number, self.code(exc), translated(exc.message, exc.code)[0])
        if answer is not None:
            await self.send(answer)


async def received(socket: WebSocket) -> bytes | None:
    """The next frame; None if the client has left."""
    message = await socket.receive()
    if message["type"] == "websocket.disconnect":
        return None
    text = message.get("text")
    return message.get("bytes") or b"" if text is None else text.encode()
