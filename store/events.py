"""
The event log: one for each thread, of what its runs tell their clients.

A writer's events are in memory at once, for the clients of this process, and written behind to
Redis, for those of others and for later. Redis is never waited for: without it runs go on, local
clients see no difference, and others catch up when it is back, as far as the rings reach.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

from store.cipher import CLEAR, Cipher
from store.flusher import Flusher
from store.hub import Hub
from store.readers import Reader
from store.rings import START, Event, EventId, Gap, Memory, Ring, ThreadWriter, parse_event_id
from store.streams import PREFIX, Streams, open_streams
from store.tasks import SideTasks

__all__ = [
    "START",
    "Event",
    "EventId",
    "EventLog",
    "Gap",
    "ThreadWriter",
    "open_event_log",
    "parse_event_id",
]

#: What the ring of a thread whose run is elsewhere keeps: a slow reader goes on from Redis.
FED_EVENTS, FED_BYTES = 1_000, 1 << 20


class EventLog:
    """
    The event logs of all threads; made by `open_event_log`.

    Every event is delivered to every reader once and in order, from any replica, as long as it
    is in a ring or in Redis; where it may not be, the reader gets a `Gap`.
    """

    def __init__(
        self,
        streams: Streams | None,
        *,
        prefix: str,
        max_events: int,
        max_bytes: int,
        max_total_bytes: int,
        keep_seconds: float,
        ttl_seconds: float,
    ) -> None:
        self._streams = streams
        self._max_events = max_events
        self._max_bytes = max_bytes
        # Without Redis the ring is all there is for a client that comes back.
        self._keep_seconds = keep_seconds if streams else ttl_seconds
        self._ttl_seconds = ttl_seconds
        self._memory = Memory(max_total_bytes)
        self._rings: dict[str, Ring] = {}
        self._tasks = SideTasks()
        self._closed = False
        self._flusher = Flusher(streams, self._fence, ttl_seconds) if streams else None
        self._hub = Hub(streams, prefix, self._feed, self._tasks.spawn) if streams else None

    @property
    def thread_count(self) -> int:
        """How many threads have something in memory."""
        return len(self._rings)

    @property
    def memory_bytes(self) -> int:
        """How much all rings hold."""
        return self._memory.used

    @property
    def follower_count(self) -> int:
        """How many read a log at this moment."""
        return sum(len(ring.wakes) for ring in self._rings.values())

    @property
    def written(self) -> tuple[int, int]:
        """How many events, and bytes of data, were written here so far."""
        return self._memory.written_events, self._memory.written_bytes

    @property
    def redis(self) -> Flusher | None:
        """Who writes them behind to Redis, if there is one: for what it counts."""
        return self._flusher

    def writer(
        self, thread_id: str, epoch: int, run_id: str, *, timed: bool = False
    ) -> ThreadWriter:
        """
        Begin an epoch of the thread's log.

        An open writer of a lower epoch is fenced; if one of a higher epoch is open, the new one is.

        Args:
            epoch: The lease's; higher than any that the thread had before.
            timed: Its events say when they were logged.

        Raises:
            ValueError: The epoch has a writer already.
        """
        ring = self._ring(thread_id)
        writer = ThreadWriter(
            ring, epoch, run_id, self._written, self._hurried, self._ended, timed=timed
        )
        if ring.local and epoch == ring.top[0]:
            raise ValueError(f"Epoch {epoch} of thread {thread_id} has a writer already")
        if ring.lease is not None:
            if epoch < ring.top[0]:
                writer.fenced.set()
                return writer
            ring.lease.set()
        if self._hub:
            self._hub.unwatch(thread_id)
        ring.begin(epoch, alone=self._streams is None)
        ring.lease = writer.fenced
        ring.wake()
        return writer

    async def follow(
        self,
        thread_id: str,
        after: EventId,
        *,
        idle_seconds: float | None = None,
        stop: asyncio.Event | None = None,
    ) -> AsyncGenerator[list[Event] | Gap, None]:
        """
        Everything after the cursor, in order, each event once; then whatever comes.

        Never raises for Redis: while it does not answer, what is not in memory is waited for.
        Close it when done (`contextlib.aclosing`): it holds the thread's ring.

        Args:
            after: The last event seen, ``(epoch, 0)`` for all of an epoch, START for all there is.
            idle_seconds: Yield an empty list when nothing came for so long.
            stop: Ends the iteration when set and all that is there was read; closing the log ends
                it at once.

        Yields:
            What is there, as a list; or a Gap where events may be missing.
        """
        ring = self._ring(thread_id)
        wake = asyncio.Event()
        ring.wakes.add(wake)
        stopping = asyncio.create_task(_set_after(stop, wake)) if stop else None
        reader = Reader(ring, after, self._streams, self._hub, self._fence)
        quiet_at = time.monotonic()
        try:
            while not self._closed:
                wake.clear()
                last = stop is not None and stop.is_set()
                found = await reader.read()
                for item in found:
                    yield item
                if found:
                    quiet_at = time.monotonic()
                    continue
                if last:
                    return
                idle = None if idle_seconds is None else quiet_at + idle_seconds - time.monotonic()
                if idle is not None and idle <= 0:
                    yield []
                    quiet_at = time.monotonic()
                    continue
                await _wait(wake, min((s for s in (idle, reader.retry) if s), default=None))
        finally:
            if stopping:
                stopping.cancel()
            ring.wakes.discard(wake)
            self._release(ring)

    async def tail(self, thread_id: str) -> EventId:
        """
        The last id of the log, or START: `follow` from there gives what comes next.

        Raises:
            UnavailableError: The run is not here, and Redis does not answer.
        """
        ring = self._rings.get(thread_id)
        top = ring.top if ring and ring.local else START
        if self._streams is None or (ring and ring.lease):
            return top
        return max(top, await self._streams.end(thread_id))

    async def delete(self, thread_id: str) -> None:
        """
        Forget the thread's log; an open writer here is fenced.

        A writer in another process may bring a part of it back: it deletes it once more.

        Raises:
            UnavailableError: Redis does not answer; the stream is there until it expires.
        """
        if ring := self._rings.get(thread_id):
            self._fence(ring)
        if self._streams and self._flusher:
            await self._flusher.dropped()
            await self._streams.delete(thread_id)

    async def ping(self) -> None:
        """
        Return if Redis answers, or none is configured.

        Raises:
            UnavailableError: It does not answer.
        """
        if self._streams:
            await self._streams.ping()

    def start(self) -> None:
        """Start the tasks."""
        self._tasks.spawn("event sweep", self._sweep)
        if flusher := self._flusher:
            self._tasks.spawn("event flush", lambda: flusher.run(self._rings.values))

    async def close(self, timeout_seconds: float) -> None:
        """End all readers, send what is pending within the time given, stop the tasks."""
        self._closed = True
        for ring in self._rings.values():
            ring.wake()
        if self._flusher:
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout_seconds):
                    await self._flusher.settled()
        await self._tasks.stop()

    def _ring(self, thread_id: str) -> Ring:
        ring = self._rings.get(thread_id)
        if ring is None:
            ring = Ring(thread_id, self._max_events, self._max_bytes, self._memory)
            self._rings[thread_id] = ring
        return ring

    def _written(self, ring: Ring) -> None:
        if self._flusher:
            self._flusher.push(ring)
        self._make_room()

    def _hurried(self) -> None:
        if self._flusher:
            self._flusher.hurry()

    def _ended(self, ring: Ring) -> None:
        ring.kept_until = time.monotonic() + self._keep_seconds
        ring.renew_at = 0.0
        ring.wake()
        if self._flusher:
            self._flusher.push(ring)
            self._flusher.hurry()

    def _feed(self, thread_id: str, events: list[Event]) -> None:
        ring = self._rings.get(thread_id)
        if ring is not None and ring.lease is None:
            ring.feed(events, max_events=FED_EVENTS, max_bytes=FED_BYTES)
            self._make_room()

    def _fence(self, ring: Ring) -> None:
        """Forget the ring: its followers go on from Redis."""
        if ring.lease is not None:
            ring.lease.set()
            ring.lease = None
        self._forget(ring)
        ring.wake()
        self._release(ring)

    def _forget(self, ring: Ring) -> None:
        if self._flusher:
            self._flusher.drop(ring)
        if self._hub:
            self._hub.unwatch(ring.thread_id)
        ring.forget()

    def _release(self, ring: Ring) -> None:
        """Free what nobody uses."""
        if ring.lease:
            return
        if self._hub and not ring.wakes:
            self._hub.unwatch(ring.thread_id)
        if ring.local and time.monotonic() < self._kept_until(ring):
            return
        if ring.wakes:
            ring.drain()
            return
        self._forget(ring)
        if self._rings.get(ring.thread_id) is ring:
            del self._rings[ring.thread_id]

    def _kept_until(self, ring: Ring) -> float:
        if self._streams and ring.pending:
            return ring.kept_until - self._keep_seconds + self._ttl_seconds
        return ring.kept_until

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(min(5.0, self._keep_seconds / 2))
            for ring in list(self._rings.values()):
                self._release(ring)

    def _make_room(self) -> None:
        """Halve the rings of ended runs and then of others, biggest first, to 9/10 of the bound."""
        if self._memory.used <= self._memory.limit:
            return
        rings = sorted(self._rings.values(), key=lambda r: (r.lease is None, r.size), reverse=True)
        for ring in rings:
            if self._memory.used <= self._memory.limit * 0.9:
                break
            ring.halve()


async def _set_after(stop: asyncio.Event, wake: asyncio.Event) -> None:
    await stop.wait()
    wake.set()


async def _wait(wake: asyncio.Event, seconds: float | None) -> None:
    if seconds is None:
        # A time-out that never comes costs more than the waiting.
        await wake.wait()
        return
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await wake.wait()


@asynccontextmanager
async def open_event_log(
    redis_url: str | None,
    *,
    prefix: str = PREFIX,
    max_events: int = 10_000,
    max_bytes: int = 16 << 20,
    max_total_bytes: int = 256 << 20,
    keep_seconds: float = 15.0,
    ttl_seconds: float = 600.0,
    close_seconds: float = 2.0,
    cipher: Cipher = CLEAR,
) -> AsyncIterator[EventLog]:
    """
    Open the event log; Redis need not answer yet, or ever.

    Args:
        redis_url: redis://, rediss:// or unix://; empty or None for a process that is alone.
        prefix: The beginning of all keys.
        max_events: What a thread's ring, and its stream, hold at the most.
        max_bytes: The same in bytes; a stream may for a while hold twice that.
        max_total_bytes: What all rings of the process hold at the most.
        keep_seconds: How long the ring of an ended run is kept.
        ttl_seconds: How long a client can come back after a run has ended.
        close_seconds: How long closing waits for pending events to reach Redis.
        cipher: Seals what is sent to Redis.

    Raises:
        InvalidInputError: The URL is not valid, or leads to a Redis Cluster.
    """
    async with AsyncExitStack() as stack:
        streams = None
        if redis_url:
            streams = await stack.enter_async_context(
                open_streams(redis_url, prefix, max_events, cipher=cipher)
            )
        log = EventLog(
            streams,
            prefix=prefix,
            max_events=max_events,
            max_bytes=max_bytes,
            max_total_bytes=max_total_bytes,
            keep_seconds=keep_seconds,
            ttl_seconds=ttl_seconds,
        )
        log.start()
        try:
            yield log
        finally:
            await log.close(close_seconds)
