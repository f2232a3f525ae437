"""The event-streaming protocol as raw as it is on the wire."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
from websockets.asyncio.client import ClientConnection, connect

from tests.acceptance.sse import frames

ALL = [
    "values",
    "updates",
    "messages",
    "tools",
    "lifecycle",
    "input",
    "checkpoints",
    "tasks",
    "custom",
]

Event = dict[str, Any]


def new_id() -> str:
    return str(uuid.uuid4())


def data(event: Event) -> Any:
    return event["params"]["data"]


def is_end(event: Event) -> bool:
    """Whether a run is over."""
    return (
        event["method"] == "lifecycle"
        and event["params"]["namespace"] == []
        and data(event)["event"] in ("completed", "failed", "interrupted")
    )


async def command(http: httpx.AsyncClient, thread_id: str, method: str, **params: Any) -> Any:
    """The answer to a command."""
    body = {"id": 7, "method": method, "params": params}
    response = await http.post(f"/threads/{thread_id}/commands", json=body)
    assert response.status_code == 200, response.text
    answer = response.json()
    assert answer["id"] == 7
    return answer


async def start(http: httpx.AsyncClient, thread_id: str, graph: str, **params: Any) -> str:
    answer = await command(http, thread_id, "run.start", assistant_id=graph, **params)
    assert answer["type"] == "success", answer
    return str(answer["result"]["run_id"])


class Followed:
    """The events of a stream, so far."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._changed = asyncio.Condition()

    async def add(self, event: Event) -> None:
        async with self._changed:
            self.events.append(event)
            self._changed.notify_all()

    async def until(self, wanted: Callable[[Event], bool], times: int = 1) -> Event:
        """The event that is wanted, once it is there."""

        def found() -> list[Event]:
            return [event for event in self.events if wanted(event)]

        try:
            async with asyncio.timeout(30), self._changed:
                await self._changed.wait_for(lambda: len(found()) >= times)
        except TimeoutError:
            seen = [(e["method"], str(data(e))[:80]) for e in self.events]
            raise AssertionError(f"it did not come; seen: {seen}") from None
        return found()[times - 1]

    def of(self, *methods: str) -> list[Event]:
        return [event for event in self.events if event["method"] in methods]


@asynccontextmanager
async def following(
    http: httpx.AsyncClient, thread_id: str, **asked: Any
) -> AsyncIterator[Followed]:
    """Follow a thread over server-sent events."""
    followed, opened = Followed(), asyncio.Event()

    async def read() -> None:
        body = {"channels": ALL, **asked}
        url = f"/threads/{thread_id}/stream/events"
        async with http.stream("POST", url, json=body, timeout=None) as response:
            assert response.status_code == 200, await response.aread()
            opened.set()
            async for frame in frames(response):
                assert frame.name == frame.data["method"]
                assert frame.id == str(frame.data.get("seq", ""))
                await followed.add(frame.data)

    reading = asyncio.create_task(read())
    waiting = asyncio.create_task(opened.wait())
    await asyncio.wait({reading, waiting}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if reading.done():
        reading.result()
    try:
        yield followed
    finally:
        reading.cancel()
        await asyncio.wait({reading})


class Socket:
    """A WebSocket on a thread: its events, and the answers to its commands."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.followed = Followed()
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._count = 0

    async def command(self, method: str, **params: Any) -> Any:
        self._count += 1
        answer = self._answers[self._count] = asyncio.get_running_loop().create_future()
        await self.connection.send(
            json.dumps({"id": self._count, "method": method, "params": params})
        )
        async with asyncio.timeout(30):
            return await answer

    async def read(self) -> None:
        async for text in self.connection:
            told = json.loads(text)
            if told["type"] == "event":
                await self.followed.add(told)
            else:
                self._answers[told["id"]].set_result(told)


@asynccontextmanager
async def socket(url: str, thread_id: str, **options: Any) -> AsyncIterator[Socket]:
    """Open a WebSocket on a thread."""
    address = f"{url.replace('http', 'ws', 1)}/threads/{thread_id}/stream/events"
    async with connect(address, **options) as connection:
        opened = Socket(connection)
        reading = asyncio.create_task(opened.read())
        try:
            yield opened
        finally:
            reading.cancel()
            await asyncio.wait({reading})
