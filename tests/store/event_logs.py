"""What the tests of the event log share."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import aclosing, asynccontextmanager
from typing import Any

from store.events import Event, EventId, EventLog, Gap, ThreadWriter, open_event_log

DEADLINE_SECONDS = 60.0

Seen = list[EventId | Gap]


def names() -> str:
    """A prefix nobody else has."""
    return f"test-{uuid.uuid4()}"


@asynccontextmanager
async def replicas(
    redis_url: str, count: int = 2, **options: Any
) -> AsyncIterator[tuple[EventLog, ...]]:
    """Event logs that share their streams, as processes do."""
    prefix = options.pop("prefix", names())
    async with asyncio.timeout(120), _open_all(redis_url, count, prefix, options) as logs:
        yield tuple(logs)


@asynccontextmanager
async def _open_all(
    redis_url: str, count: int, prefix: str, options: dict[str, Any]
) -> AsyncIterator[list[EventLog]]:
    if count == 0:
        yield []
        return
    async with (
        open_event_log(redis_url, prefix=prefix, **options) as log,
        _open_all(redis_url, count - 1, prefix, options) as others,
    ):
        yield [log, *others]


def emit(writer: ThreadWriter, count: int, data: bytes = b"{}") -> None:
    for _ in range(count):
        writer.emit("values", data)


def ids(epoch: int, numbers: Iterable[int]) -> Seen:
    return [(epoch, number) for number in numbers]


def positions(item: list[Event] | Gap) -> Seen:
    return [item] if isinstance(item, Gap) else [event.position for event in item]


async def read(log: EventLog, thread_id: str, after: EventId, until: EventId) -> Seen:
    """All that a reader sees up to an id."""
    seen: Seen = []
    async with (
        asyncio.timeout(DEADLINE_SECONDS),
        aclosing(log.follow(thread_id, after)) as items,
    ):
        async for item in items:
            seen += positions(item)
            if seen[-1] == until:
                break
    return seen


async def until(condition: Callable[[], bool | Awaitable[bool]]) -> None:
    """Return when the condition holds."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while True:
            holds = condition()
            if holds if isinstance(holds, bool) else await holds:
                return
            await asyncio.sleep(0.01)
