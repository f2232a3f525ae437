"""Clients that follow runs while something befalls the servers."""

import asyncio
import itertools
import time
from collections.abc import Callable
from typing import Any

import httpx

from tests.acceptance.sse import Frame, frames

DEADLINE_SECONDS = 60.0


class Client:
    """Reads a stream aside, and knows when each frame came."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []
        self.times: list[float] = []
        self.location = ""
        self.task: asyncio.Task[None]
        self._changed = asyncio.Condition()

    async def read(self, method: str, url: str, **more: Any) -> None:
        """Open the stream; return when it is open."""
        self.task = asyncio.create_task(self._read(method, url, more))
        await self.until(lambda: self.location != "")

    async def _read(self, method: str, url: str, more: dict[str, Any]) -> None:
        try:
            async with (
                httpx.AsyncClient(timeout=10, verify=False) as http,
                http.stream(method, url, **more) as response,
            ):
                assert response.status_code == 200, await response.aread()
                await self._note(response.headers.get("location", "open"))
                async for frame in frames(response, whole=True):
                    self.frames.append(frame)
                    self.times.append(time.monotonic())
                    await self._note(self.location)
        finally:
            await self._note(self.location or "broken")

    async def _note(self, location: str) -> None:
        async with self._changed:
            self.location = location
            self._changed.notify_all()

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until it holds; every frame is a reason to look."""
        try:
            async with asyncio.timeout(DEADLINE_SECONDS), self._changed:
                await self._changed.wait_for(lambda: holds() or self._failed())
        except TimeoutError:
            raise AssertionError([frame.raw for frame in self.frames[-5:]]) from None
        if self._failed():
            await self.task

    def _failed(self) -> bool:
        return self.task.done() and not self.task.cancelled() and self.task.exception() is not None

    @property
    def said(self) -> list[int]:
        """The numbers that `ticks` said."""
        return [frame.data for frame in self.frames if frame.name == "custom"]

    @property
    def raw(self) -> bytes:
        """All of it, as it was on the wire."""
        return b"".join(frame.raw for frame in self.frames)

    def longest_pause(self, first: int, last: int) -> float:
        """Between two frames, from one number said to another."""
        at = [t for f, t in zip(self.frames, self.times, strict=True) if f.name == "custom"]
        return max(b - a for a, b in itertools.pairwise(at[first - 1 : last]))


async def new_thread(url: str) -> str:
    """Make a thread; its id."""
    async with httpx.AsyncClient(base_url=url, verify=False, timeout=30) as http:
        return str((await http.post("/threads", json={})).json()["thread_id"])


async def start(
    url: str, thread_id: str | None, graph: str, given: Any, *modes: str, **more: Any
) -> Client:
    """Have a run executed by the server that is asked, and follow it there; None: no thread."""
    client = Client()
    body = {"assistant_id": graph, "input": given, "stream_mode": list(modes), **more}
    path = "/runs/stream" if thread_id is None else f"/threads/{thread_id}/runs/stream"
    await client.read("POST", url + path, json=body)
    return client


async def join(url: str, path: str, last_event_id: str = "-1") -> Client:
    """Follow a run from any server."""
    client = Client()
    await client.read("GET", url + path, headers={"Last-Event-ID": last_event_id})
    return client


async def get_json(url: str) -> Any:
    """What a server answers."""
    async with httpx.AsyncClient(timeout=30, verify=False) as http:
        return (await http.get(url)).json()
