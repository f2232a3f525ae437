"""
The event loop that graphs run on, in a thread of its own.

A node may sleep, or compute, without awaiting: that stops the loop it is on, and nothing else.
HTTP, the queue and every stream are on the process's first loop and never execute a graph's code.
What graphs stand on, the checkpointer and the store of items, is theirs alone and on their loop,
so that no call of a graph crosses over; what crosses is a run, its events in bunches, and its end.
"""

import asyncio
import math
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import structlog
import uvloop
from langgraph.store.base import BaseStore

from graph.checkpointer import AnySaver
from store.database import Database

log = structlog.get_logger(__name__)

Result = TypeVar("Result")
Deliver = Callable[[str, bytes], object]

#: How long what was cancelled may take to end before it is left to itself.
STOP_SECONDS = 5.0

#: How often the loop shows that it is alive, and after what silence it counts as blocked.
TICK_SECONDS, BLOCKED_SECONDS = 0.25, 1.0

#: How much may wait to cross before a run has to.
OUTBOX_BYTES = 8 << 20

#: Events of a run that come one by one cross no more often than this, a frame of a screen: each
#: crossing is a wake-up, and a write to every client's socket. Not held back is one that comes after a
#: pause, nor any of the run's first.
PACE_SECONDS, PROMPT_EVENTS = 0.016, 20

#: What an entry of it counts beside its data.
OVERHEAD_BYTES = 256


@dataclass(frozen=True, slots=True)
class Backing:
    """What a graph stands on; belongs to one event loop."""

    saver: AnySaver
    items: BaseStore
    db: Database


class Place(Protocol):
    """Where graphs are executed: `Here` or a `GraphLoop`."""

    @property
    def blocked(self) -> bool:
        """Whether something there has not awaited for a while: nothing new would begin soon."""
        ...

    @property
    def backing(self) -> Backing:
        """What is open there: to be used there alone, but for what it counts."""
        ...

    async def run(self, work: Callable[[Backing], Coroutine[Any, Any, Result]]) -> Result:
        """Run a coroutine there; cancelling the caller cancels it."""
        ...

    def outbox(self, deliver: Deliver) -> "Outbox":
        """A way for what runs there to have events delivered here, in order."""
        ...


class Here:
    """The event loop that asks: for what reads through a graph, and executes no node."""

    def __init__(self, backing: Backing) -> None:
        self.backing = backing
        self.blocked = False

    async def run(self, work: Callable[[Backing], Coroutine[Any, Any, Result]]) -> Result:
        """Await it."""
        return await work(self.backing)

    def outbox(self, deliver: Deliver) -> "Outbox":
        """One that delivers soon."""
        return Outbox(asyncio.get_running_loop(), deliver)


class GraphLoop:
    """
    Runs coroutines for the event loop that made it; by `open_graph_loop`.

    Args:
        backing: Opens what they stand on, on their loop.
    """

    def __init__(self, backing: Callable[[], AbstractAsyncContextManager[Backing]]) -> None:
        self._open = backing
        self._home = asyncio.get_running_loop()
        self._opened: asyncio.Future[Backing] = self._home.create_future()
        self._closing: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._ticked_at = time.monotonic()
        self._thread = threading.Thread(target=self._main, name="graphs", daemon=True)

    @property
    def blocked(self) -> bool:
        """Whether something on it has not awaited for a while: nothing new would begin soon."""
        return time.monotonic() - self._ticked_at > BLOCKED_SECONDS

    @property
    def backing(self) -> Backing:
        """What is open there: to be used there alone, but for what it counts."""
        return self._opened.result()

    async def run(self, work: Callable[[Backing], Coroutine[Any, Any, Result]]) -> Result:
        """
        Run a coroutine there and return what it returns, or raise what it raises.

        Cancelling the caller cancels it, and waits for it to end; after `STOP_SECONDS` it is left
        to itself.
        """
        done: asyncio.Future[Result] = self._home.create_future()
        call = _Call(work, done, self._tasks)
        loop, backing = self._running()
        loop.call_soon_threadsafe(call.begin, backing)
        try:
            return await asyncio.shield(done)
        except asyncio.CancelledError:
            if not done.done():
                loop.call_soon_threadsafe(call.cancel)
                await _wait(done, STOP_SECONDS)
            if not done.done():
                log.warning("what was cancelled does not end and is left to itself")
                raise
            return done.result()

    def outbox(self, deliver: Deliver) -> "Outbox":
        """A way for what runs there to have events delivered here, in order."""
        return Outbox(self._home, deliver)

    async def open(self) -> None:
        """
        Start the thread, and wait until everything on it is open.

        Raises:
            Exception: What opening the backing raises.
        """
        self._thread.start()
        await asyncio.shield(self._opened)

    async def close(self, timeout_seconds: float) -> None:
        """End the thread; after the time given, or if it is blocked, it is left to itself."""
        if self._loop is not None and self._closing is not None:
            with suppress(RuntimeError):  # it has ended by itself
                self._loop.call_soon_threadsafe(self._closing.set)
        until = time.monotonic() + timeout_seconds
        while self._thread.is_alive() and not self.blocked and time.monotonic() < until:
            await asyncio.to_thread(self._thread.join, TICK_SECONDS)
        if self._thread.is_alive():
            log.warning("a graph blocks its event loop and is left to itself")

    def _running(self) -> tuple[asyncio.AbstractEventLoop, Backing]:
        assert self._loop is not None
        return self._loop, self._opened.result()

    def _main(self) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._live())

    async def _live(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._closing = asyncio.Event()
        try:
            async with self._open() as backing:
                self._tell(backing, None)
                ticking = asyncio.create_task(self._tick(), name="graph loop tick")
                await self._closing.wait()
                await self._cancel_all()
            ticking.cancel()
        except BaseException as exc:
            # Raised where it was asked for; later there is nobody to tell.
            if self._opened.done():
                log.exception("the event loop of the graphs failed")
            self._tell(None, exc)
        finally:
            self._ticked_at = math.inf  # nothing of a graph's is left that could block it

    def _tell(self, backing: Backing | None, error: BaseException | None) -> None:
        self._home.call_soon_threadsafe(_settle, self._opened, backing, error)

    async def _tick(self) -> None:
        while True:
            before = self._ticked_at = time.monotonic()
            await asyncio.sleep(TICK_SECONDS)
            late = time.monotonic() - before - TICK_SECONDS
            if late > BLOCKED_SECONDS:
                log.warning("a node blocked the event loop of all graphs", seconds=round(late, 1))

    async def _cancel_all(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=STOP_SECONDS)


class _Call:
    """A coroutine that runs on another loop than the one that waits for it."""

    def __init__(
        self,
        work: Callable[[Backing], Coroutine[Any, Any, Any]],
        done: asyncio.Future[Any],
        tasks: set[asyncio.Task[Any]],
    ) -> None:
        self._work = work
        self._done = done
        self._tasks = tasks
        self._task: asyncio.Task[Any] | None = None
        self._cancelled = False

    def begin(self, backing: Backing) -> None:
        if self._cancelled:
            return
        self._task = asyncio.get_running_loop().create_task(self._work(backing))
        self._tasks.add(self._task)
        self._task.add_done_callback(self._end)

    def cancel(self) -> None:
        self._cancelled = True
        if self._task is not None:
            self._task.cancel()

    def _end(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        with suppress(RuntimeError):  # nobody is there any more
            self._done.get_loop().call_soon_threadsafe(_copy, task, self._done)


class Outbox:
    """
    What a run tells while it goes on: from the graphs' loop to ours, in order.

    Whatever is put while one delivery is on its way goes with it.
    """

    def __init__(self, home: asyncio.AbstractEventLoop, deliver: Deliver) -> None:
        self._home = home
        self._deliver = deliver
        self._waiting: deque[tuple[str, bytes]] = deque()
        self._is_called = self._is_closed = False
        # Each is written by one side only.
        self._put_bytes = self._taken_bytes = 0
        self._put_count = 0
        self._flushed_at = -math.inf
        self._emptied: asyncio.Event | None = None
        self._there: asyncio.AbstractEventLoop | None = None

    def put(self, name: str, data: bytes) -> None:
        """Have an event delivered; only where graphs run."""
        self._put_bytes += len(data) + OVERHEAD_BYTES
        self._put_count += 1
        self._waiting.append((name, data))
        if not self._is_called:
            self._is_called = True
            call = self.flush if self._put_count <= PROMPT_EVENTS else self._flush_in_time
            self._home.call_soon_threadsafe(call)

    @property
    def full(self) -> bool:
        """Whether to wait for `room` before the next one."""
        return self._put_bytes - self._taken_bytes > OUTBOX_BYTES

    async def room(self) -> None:
        """Return when it is full no more."""
        self._there = asyncio.get_running_loop()
        emptied = self._emptied = asyncio.Event()
        # Asked after that: a delivery in between has set it, or has made room.
        if self.full:
            await emptied.wait()

    def close(self) -> None:
        """Deliver what is on its way now, and nothing that comes later; only here."""
        self.flush()
        self._is_closed = True

    def _flush_in_time(self) -> None:
        seconds = self._flushed_at + PACE_SECONDS - time.monotonic()
        if seconds <= 0 or self.full:
            self.flush()
        else:
            self._home.call_later(seconds, self.flush)

    def flush(self) -> None:
        """Deliver what is on its way now; only here."""
        # First: what is put from here on calls again.
        self._is_called = False
        self._flushed_at = time.monotonic()
        while self._waiting:
            name, data = self._waiting.popleft()
            self._taken_bytes += len(data) + OVERHEAD_BYTES
            if not self._is_closed:
                self._deliver(name, data)
        emptied, self._emptied = self._emptied, None
        if emptied is not None and self._there is not None:
            with suppress(RuntimeError):  # nobody is there any more
                self._there.call_soon_threadsafe(emptied.set)


@asynccontextmanager
async def open_graph_loop(
    backing: Callable[[], AbstractAsyncContextManager[Backing]], *, close_seconds: float = 40.0
) -> AsyncIterator[GraphLoop]:
    """
    Open the loop of this process's graphs.

    Args:
        backing: Opens what they stand on, on their loop.
        close_seconds: How long closing waits for checkpoints to be written.

    Raises:
        Exception: What opening the backing raises.
    """
    loop = GraphLoop(backing)
    try:
        await loop.open()
        yield loop
    finally:
        await loop.close(close_seconds)


def _settle(future: "asyncio.Future[Any]", result: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)


def _copy(task: "asyncio.Task[Any]", future: "asyncio.Future[Any]") -> None:
    if future.done():
        return
    if task.cancelled():
        future.cancel()
    else:
        error = task.exception()
        _settle(future, None if error else task.result(), error)


async def _wait(future: "asyncio.Future[Any]", seconds: float) -> None:
    """Wait for a future for so long, whoever cancels the waiting."""
    until = time.monotonic() + seconds
    while not future.done() and (left := until - time.monotonic()) > 0:
        with suppress(asyncio.CancelledError):
            await asyncio.wait({future}, timeout=left)
