"""Follow the streams of many threads over few connections."""

import asyncio
import uuid
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from store.errors import UnavailableError
from store.rings import Event, EventId
from store.streams import Streams

#: How many threads share a connection.
THREADS_PER_LINE = 64

#: How many entries of each thread a round trip brings.
READ_ENTRIES = 16

#: A reader that nothing comes for asks again after so long; a lost wake costs no more.
BLOCK_SECONDS = 5.0

#: How long a reader waits when Redis does not answer.
RETRY_SECONDS = 0.2

WAKE_TTL_SECONDS = 3600.0

#: Starts a task that is started again when it dies.
Spawn = Callable[[str, Callable[[], Coroutine[Any, Any, None]]], None]


class Hub:
    """
    Reads on from a cursor of every watched thread, once for all its followers.

    Args:
        feed: Is given the events of a thread in order, without a hole unless the stream has one.
    """

    def __init__(
        self, streams: Streams, prefix: str, feed: Callable[[str, list[Event]], None], spawn: Spawn
    ) -> None:
        self._streams = streams
        self._prefix = prefix
        self._feed = feed
        self._spawn = spawn
        self._shards: set[_Shard] = set()
        self._by_thread: dict[str, _Shard] = {}

    def watch(self, thread_id: str, after: EventId) -> None:
        """Read on from the cursor, until `unwatch`; nothing changes if it is watched already."""
        if thread_id in self._by_thread:
            return
        shard = next((s for s in self._shards if len(s.cursors) < THREADS_PER_LINE), None)
        if shard is None:
            shard = _Shard(self._streams, f"{self._prefix}:hub:{uuid.uuid4()}", self._feed)
            self._shards.add(shard)
            self._spawn("event hub", lambda: self._run(shard))
        self._by_thread[thread_id] = shard
        shard.cursors[thread_id] = f"{after[0]}-{after[1]}"
        if shard.reading:
            self._spawn("event hub wake", shard.wake)

    def unwatch(self, thread_id: str) -> None:
        """Stop reading the thread."""
        shard = self._by_thread.pop(thread_id, None)
        if shard is not None:
            del shard.cursors[thread_id]

    async def _run(self, shard: "_Shard") -> None:
        try:
            while shard.cursors:
                await shard.read()
            # No await between the last look at the cursors and this: no thread is left behind.
            self._shards.discard(shard)
        finally:
            await shard.close()


class _Shard:
    """The threads of one connection, and a key of its own that interrupts its waiting."""

    def __init__(
        self, streams: Streams, wake_key: str, feed: Callable[[str, list[Event]], None]
    ) -> None:
        self.cursors: dict[str, str] = {}
        self._streams = streams
        self._line = streams.line()
        self._feed = feed
        self._wake_key = wake_key
        self._wake_cursor = "0-0"
        #: Whether it waits for what it asked for, and does not know of threads added since.
        self.reading = False

    async def wake(self) -> None:
        """Let the reader look at its threads anew; should this fail, it does so by itself soon."""
        if not self.reading:
            return
        # One wake is enough for all who come before the reader asks again.
        self.reading = False
        with suppress(UnavailableError):
            await self._streams.touch(self._wake_key, WAKE_TTL_SECONDS)

    async def read(self) -> None:
        """Wait for events, and hand them on."""
        asked = dict(self.cursors)
        keys = {self._streams.key(thread_id): thread_id for thread_id in asked}
        cursors = {key: asked[thread_id] for key, thread_id in keys.items()}
        cursors[self._wake_key] = self._wake_cursor
        self.reading = True
        try:
            found = await self._streams.read_blocking(
                self._line, cursors, count=READ_ENTRIES, block_seconds=BLOCK_SECONDS
            )
        except UnavailableError:
            await asyncio.sleep(RETRY_SECONDS)
            return
        finally:
            self.reading = False
        if wakes := found.pop(self._wake_key, None):
            self._wake_cursor, _ = wakes
        for key, (cursor, events) in found.items():
            thread_id = keys[key]
            # Given up meanwhile, or watched anew from elsewhere: what was read is not asked for.
            if self.cursors.get(thread_id) == asked[thread_id]:
                self.cursors[thread_id] = cursor
                self._feed(thread_id, events)

    async def close(self) -> None:
        """Close the connection."""
        await self._line.close()
