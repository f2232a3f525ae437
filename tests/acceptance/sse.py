"""Server-sent events as they are on the wire."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx


@dataclass(frozen=True)
class Frame:
    """One event, with the bytes it came in."""

    raw: bytes
    name: str
    data: Any
    id: str

    @property
    def place(self) -> tuple[int, int]:
        """The id, in its order."""
        epoch, seq = self.id.split("-")
        return int(epoch), int(seq)


async def frames(response: httpx.Response, *, whole: bool = False) -> AsyncIterator[Frame]:
    """The events of a response as they come; comments, and unless `whole` the end, are left out."""
    pending = b""
    ended = False
    async for chunk in response.aiter_bytes():
        pending += chunk
        *complete, pending = pending.split(b"\r\n\r\n")
        for raw in complete:
            if raw.startswith(b":"):
                continue
            assert not ended, "something came after the end"
            frame = _frame(raw + b"\r\n\r\n")
            if frame.name == "end":
                assert set(frame.data) == {"run_id", "status"}
                ended = True
            if whole or not ended:
                yield frame
    assert not pending, f"the stream broke off within an event: {pending!r}"


def _frame(raw: bytes) -> Frame:
    fields = dict(line.split(": ", 1) for line in raw.decode().strip().split("\r\n"))
    return Frame(raw, fields["event"], json.loads(fields["data"]), fields.get("id", ""))


async def follow(
    http: httpx.AsyncClient, url: str, *, last_event_id: str = "-1"
) -> asyncio.Task[list[Frame]]:
    """Open a stream, which may be long in coming, and collect it aside."""
    opened = asyncio.Event()

    async def read() -> list[Frame]:
        headers = {"Last-Event-ID": last_event_id} if last_event_id else {}
        async with http.stream("GET", url, headers=headers) as response:
            opened.set()
            return [frame async for frame in frames(response)]

    task = asyncio.create_task(read())
    await opened.wait()
    return task


async def collect(
    http: httpx.AsyncClient, method: str, url: str, *, last_event_id: str = "", **more: Any
) -> list[Frame]:
    """All events of a request's answer, which ends by itself."""
    headers = {"Last-Event-ID": last_event_id} if last_event_id else {}
    async with http.stream(method, url, headers=headers, **more) as response:
        assert response.status_code == 200, await response.aread()
        return [frame async for frame in frames(response)]
