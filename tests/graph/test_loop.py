"""The event loop of the graphs, and what crosses to the one that serves."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest

from graph.loop import PROMPT_EVENTS, Backing, GraphLoop, Outbox, open_graph_loop
from tests.store.event_logs import until

DEADLINE_SECONDS = 60.0
NOTHING = cast("Backing", object())


@asynccontextmanager
async def nothing() -> AsyncIterator[Backing]:
    yield NOTHING


@pytest.fixture
async def loop() -> AsyncIterator[GraphLoop]:
    async with open_graph_loop(nothing) as opened:
        yield opened


class Heard:
    """The bunches in which events are delivered."""

    def __init__(self, loop: GraphLoop) -> None:
        self.outbox: Outbox = loop.outbox(self._deliver)
        self.bunches: list[list[int]] = [[]]
        self._changed = asyncio.Event()

    def _deliver(self, name: str, data: bytes) -> None:
        if len(self.bunches[-1]) == 0:
            asyncio.get_running_loop().call_soon(self.bunches.append, [])
        self.bunches[-1].append(int(name))
        self._changed.set()

    @property
    def all(self) -> list[int]:
        return [number for bunch in self.bunches for number in bunch]

    async def until(self, count: int) -> None:
        async with asyncio.timeout(DEADLINE_SECONDS):
            while len(self.all) < count:
                self._changed.clear()
                await self._changed.wait()


async def test_what_runs_there_is_in_another_thread_and_returns_here(loop: GraphLoop) -> None:
    async def work(backing: Backing) -> tuple[int, bool]:
        return threading.get_ident(), backing is NOTHING

    thread, is_ours = await loop.run(work)

    assert thread != threading.get_ident()
    assert is_ours


async def test_what_is_raised_there_is_raised_here(loop: GraphLoop) -> None:
    async def fail(backing: Backing) -> None:
        raise ValueError("there")

    with pytest.raises(ValueError, match="there"):
        await loop.run(fail)


async def test_cancelling_waits_for_what_runs_there_to_end(loop: GraphLoop) -> None:
    begun, ended = threading.Event(), threading.Event()

    async def work(backing: Backing) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.set()

    running = asyncio.create_task(loop.run(work))
    await asyncio.to_thread(begun.wait, DEADLINE_SECONDS)
    running.cancel()

    with pytest.raises(asyncio.CancelledError):
        await running
    assert ended.is_set()


async def test_a_loop_that_is_blocked_says_so_until_it_is_free(loop: GraphLoop) -> None:
    free = threading.Event()

    async def block(backing: Backing) -> None:
        free.wait(DEADLINE_SECONDS)

    blocking = asyncio.create_task(loop.run(block))
    await until(lambda: loop.blocked)
    free.set()
    await blocking
    await until(lambda: not loop.blocked)


async def test_a_backing_that_cannot_be_opened_fails_whoever_opens_the_loop() -> None:
    @asynccontextmanager
    async def broken() -> AsyncIterator[Backing]:
        raise OSError("not there")
        yield NOTHING

    with pytest.raises(OSError, match="not there"):
        async with open_graph_loop(broken):
            pass


async def test_events_cross_in_order_the_first_ones_at_once_and_others_in_bunches(
    loop: GraphLoop,
) -> None:
    heard = Heard(loop)
    total = 200 + PROMPT_EVENTS

    async def say(backing: Backing) -> None:
        for number in range(PROMPT_EVENTS):
            heard.outbox.put(str(number), b"")
        # The rest comes while a bunch is being gathered.
        await until(lambda: len(heard.all) == PROMPT_EVENTS)
        for number in range(PROMPT_EVENTS, total):
            heard.outbox.put(str(number), b"")
            await asyncio.sleep(0)

    await loop.run(say)
    await heard.until(total)

    assert heard.all == list(range(total))
    later = [bunch for bunch in heard.bunches if bunch and bunch[0] >= PROMPT_EVENTS]
    assert len(later) < 100


async def test_what_is_on_its_way_is_delivered_when_it_is_asked_for(loop: GraphLoop) -> None:
    heard = Heard(loop)

    async def say(backing: Backing) -> None:
        for number in range(3 * PROMPT_EVENTS):
            heard.outbox.put(str(number), b"")

    await loop.run(say)
    heard.outbox.flush()

    assert heard.all == list(range(3 * PROMPT_EVENTS))


async def test_who_tells_more_than_can_cross_waits(loop: GraphLoop) -> None:
    taken: list[bytes] = []
    outbox = loop.outbox(lambda name, data: taken.append(data))

    async def say(backing: Backing) -> int:
        for _ in range(50):
            outbox.put("big", bytes(1 << 20))
            if outbox.full:
                await outbox.room()
        return len(taken)

    result: Any = await loop.run(say)
    outbox.flush()

    assert len(taken) == 50
    assert result > 30
