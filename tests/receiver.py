"""A real HTTP server that webhooks are sent to."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson

from tests.serving import serving

DEADLINE_SECONDS = 60.0


@dataclass(frozen=True)
class Heard:
    """A request."""

    path: str
    headers: dict[str, str]
    body: Any
    raw: bytes = b""


@dataclass
class Receiver:
    """What it was told, and what it answers: the statuses in turn, and then 200."""

    url: str = ""
    heard: list[Heard] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    location: str = ""
    #: Awaited before it answers.
    pause: Callable[[], Awaitable[object]] | None = None
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def told(self, times: int = 1) -> list[Any]:
        """What it was told, once that is so often."""
        async with asyncio.timeout(DEADLINE_SECONDS), self._changed:
            await self._changed.wait_for(lambda: len(self.heard) >= times)
        return [heard.body for heard in self.heard]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """The ASGI application."""
        content, more = b"", True
        while more:
            message = await receive()
            content += message.get("body", b"")
            more = message.get("more_body", False)
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        async with self._changed:
            self.heard.append(Heard(scope["path"], headers, orjson.loads(content), content))
            self._changed.notify_all()
        if self.pause is not None:
            await self.pause()
        status = self.statuses.pop(0) if self.statuses else 200
        extra = [(b"location", self.location.encode())] if self.location else []
        await send({"type": "http.response.start", "status": status, "headers": extra})
        await send({"type": "http.response.body", "body": b""})


@asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    """Open one on a free port of loopback."""
    receiver = Receiver()
    async with serving(receiver) as url:
        receiver.url = url
        yield receiver
